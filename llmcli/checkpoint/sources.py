"""From the parameters of our `Transformer` to the tensors of a file: names, and what must be done to the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from llmcli.checkpoint.tensors import TensorInfo, TensorReader
from llmcli.errors import CheckpointError

# Decoded values held at a time while rows are put in order: 16 MiB in float32.
_CHUNK_VALUES = 4 << 20


class Stored(Protocol):
    """A tensor of the checkpoint, whatever it takes to read it: plain, in blocks, or codes and scales kept apart."""

    @property
    def name(self) -> str:
        """What the checkpoint calls it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the values it decodes to."""

    @property
    def nbytes(self) -> int:
        """Bytes in the files."""

    @property
    def encoding(self) -> str:
        """How its values are stored, for people."""

    def read_rows(self, reader: TensorReader, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of the first dimension as (rows, values of a row), floating point."""


@dataclass(frozen=True)
class Source:
    """Where the values of one parameter come from."""

    name: str
    """The tensor's name in the file."""
    interleaved_head_dim: int | None = None
    """Size of the heads whose rows are stored in the pairs (2j, 2j+1) and must be put into (j, j + half)."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor that is read."""
        return (self.name,)

    def shape(self, stored: Mapping[str, Stored]) -> tuple[int, ...]:
        """The shape of the parameter this makes."""
        return stored[self.name].shape

    def read_into(self, stored: Mapping[str, Stored], reader: TensorReader, target: Tensor) -> None:
        """Fill `target`, contiguous and on the CPU, holding no more than a chunk beside it.

        Raises:
            CheckpointError: the file ends too early, cannot be read, or its rows do not fit the heads.
        """
        head_dim = self.interleaved_head_dim
        hook: Callable[[Tensor], Tensor] | None = (
            None if head_dim is None else lambda rows: half_rotated_rows(rows, head_dim)
        )
        tensor, multiple = stored[self.name], head_dim or 1
        if isinstance(tensor, TensorInfo):
            reader.read_into(tensor, target, rows=hook, chunk_rows_multiple=multiple)
            return
        rows = target.shape[0]
        step = max(1, _CHUNK_VALUES // max(1, target.numel() // rows * multiple)) * multiple
        for start in range(0, rows, step):
            values = tensor.read_rows(reader, start, min(rows, start + step))
            part = target[start : start + step]
            part.copy_((values if hook is None else hook(values)).view(part.shape))


def half_rotated_rows(rows: Tensor, head_dim: int) -> Tensor:
    """Undo the row order in which llama.cpp and Meta store queries and keys.

    Within each head the rows 0, 1, 2, 3, ... of the file are rows 0, D/2, 1, D/2 + 1, ...; `rows` (heads * D, C) or
    (heads * D,).
    """
    return rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def match_tensors(
    parameters: Mapping[str, tuple[int, ...]],
    source_of: Callable[[str], Source],
    tensors: Mapping[str, Stored],
    *,
    ignored: Callable[[str], bool],
    belongs: Callable[[str], bool],
    where: str,
) -> tuple[dict[str, Source], list[str]]:
    """Find every parameter's tensor and account for every tensor of the file.

    `parameters` maps the names of the model's parameters to their shapes. A tensor that nothing uses, is not `ignored`
    and `belongs` to the language model means that the model computes something we do not: that is an error, never a
    guess. Others (a stray tensor of a training tool) are returned as notes for the user.

    Raises:
        CheckpointError: a missing tensor, one of another shape, or one that belongs but is not used.
    """
    sources = {name: source_of(name) for name in parameters}
    used = {name for source in sources.values() for name in source.names}
    missing = sorted(used - set(tensors))
    if missing:
        raise CheckpointError(f"{where} lacks {_some(missing)}, which the configuration asks for.")
    for name, shape in parameters.items():
        found = sources[name].shape(tensors)
        if found != shape:
            first = sources[name].names[0]
            raise CheckpointError(
                f"{where}: tensor {first} has shape {list(found)}, the configuration says {list(shape)}."
            )
    unused = sorted(set(tensors) - used)
    unused = [name for name in unused if not ignored(name)]
    ours = [name for name in unused if belongs(name)]
    if ours:
        raise CheckpointError(f"{where} holds {_some(ours)}, for which the configuration has no place.")
    return sources, [f"{where} also holds {_some(unused)}, which is not used."] if unused else []


def _some(names: list[str]) -> str:
    if len(names) == 1:
        return f"the tensor {names[0]}"
    return f"{len(names)} tensors ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
