"""How each parameter of the `Transformer` is read from stored tensors: their names, and changes to their rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from llmcli.checkpoint.tensors.tensor_info import StoredTensor, TensorInfo
from llmcli.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from llmcli.checkpoint.tensors.reader import TensorReader


class ParameterSource(Protocol):
    """How the values of one parameter are read from a checkpoint."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors that are read."""

    def shape(self, stored: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        """The shape of the parameter; `CheckpointError` if the tensors do not fit together."""

    def read_into(self, stored: Mapping[str, StoredTensor], reader: TensorReader, target: Tensor) -> None:
        """Fill `target`, contiguous and on the CPU; needs at most one chunk of further memory.

        Raises:
            CheckpointError: the file ends too early, cannot be read, or does not match its declared shape.
        """


@dataclass(frozen=True)
class PairedRows:
    """The order of query or key rows that are stored as pairs (2j, 2j+1) and needed as pairs (j, j + half).

    Each head has `head_dim` rows; `size` rows from `start` on are paired, or all.
    """

    head_dim: int
    start: int = 0
    size: int | None = None

    def order(self, rows: int) -> list[int]:
        """Indices of stored rows in the needed order, for `rows` rows."""
        paired = range(self.start, self.head_dim if self.size is None else self.start + self.size)
        head = [*range(self.start), *paired[0::2], *paired[1::2], *range(paired.stop, self.head_dim)]
        return [first + row for first in range(0, rows, self.head_dim) for row in head]

    def reordered(self, rows: Tensor) -> Tensor:
        """`rows` (heads * head_dim, C) or (heads * head_dim,) in the needed order."""
        return rows[self.order(len(rows))]


@dataclass(frozen=True)
class Source:
    """All rows of one tensor, or ranges of them, in order."""

    name: str
    """The tensor's name in the file."""
    pairs: PairedRows | None = None
    ranges: tuple[tuple[int, int], ...] | None = None
    """Ranges (start, stop) of rows to read; None: all rows."""
    rows: int | None = None
    """The number of rows that the tensor must have if only some are read."""

    @property
    def names(self) -> tuple[str, ...]:
        """The one tensor that is read."""
        return (self.name,)

    def shape(self, stored: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        """(rows read, *rest of the tensor's shape)."""
        shape = stored[self.name].shape
        if self.ranges is None:
            return shape
        if not shape or shape[0] != self.rows:
            raise CheckpointError(f"Tensor {self.name} has shape {list(shape)}; {self.rows} rows are needed.")
        return (sum(stop - start for start, stop in self.ranges), *shape[1:])

    def read_into(self, stored: Mapping[str, StoredTensor], reader: TensorReader, target: Tensor) -> None:
        """See `ParameterSource`."""
        tensor = stored[self.name]
        hook = None if self.pairs is None else self.pairs.reordered
        multiple = 1 if self.pairs is None else self.pairs.head_dim
        filled = 0
        for first, last in self.ranges or ((0, target.shape[0]),):
            if isinstance(tensor, TensorInfo) and (self.ranges is None or _has_whole_rows(tensor)):
                info = tensor if self.ranges is None else _rows_of(tensor, first, last)
                part = target[filled : filled + last - first]
                reader.read_into(info, part, rows=hook, chunk_rows_multiple=multiple)
                filled += last - first
                continue
            for start, values in row_chunks(tensor, reader, first, last, multiple):
                part = target[filled + start - first : filled + start - first + len(values)]
                part.copy_((values if hook is None else hook(values)).view(part.shape))
            filled += last - first


@dataclass(frozen=True)
class OneRow:
    """A vector, which may be stored as a matrix of one row."""

    name: str

    @property
    def names(self) -> tuple[str, ...]:
        """The one tensor that is read."""
        return (self.name,)

    def shape(self, stored: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        """(values,) whether the file has a first dimension of one or not."""
        shape = stored[self.name].shape
        return shape[1:] if len(shape) == 2 and shape[0] == 1 else shape

    def read_into(self, stored: Mapping[str, StoredTensor], reader: TensorReader, target: Tensor) -> None:
        """See `ParameterSource`."""
        tensor = stored[self.name]
        for start, values in row_chunks(tensor, reader, 0, tensor.shape[0], 1):
            part = target if len(tensor.shape) > 1 else target[start : start + len(values)]
            part.copy_(values.view(part.shape))


@dataclass(frozen=True)
class Rearranged:
    """A tensor with its last two dimensions transposed, or its second dimension then reordered."""

    name: str
    transposed: bool = False
    picks: tuple[slice, ...] = (slice(None),)
    """Slices of the second dimension of the result (of a transposed matrix: the first), concatenated."""

    @property
    def names(self) -> tuple[str, ...]:
        """The one tensor that is read."""
        return (self.name,)

    def shape(self, stored: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        """The shape after transposing and reordering."""
        shape = stored[self.name].shape
        if not 2 <= len(shape) <= 3:
            raise CheckpointError(f"Tensor {self.name} has shape {list(shape)}; a matrix or a stack of them is needed.")
        if self.transposed:
            shape = (*shape[:-2], shape[-1], shape[-2])
        picked = 0 if self._is_matrix_turned(shape) else 1
        size = sum(len(range(*pick.indices(shape[picked]))) for pick in self.picks)
        return (*shape[:picked], size, *shape[picked + 1 :])

    def read_into(self, stored: Mapping[str, StoredTensor], reader: TensorReader, target: Tensor) -> None:
        """See `ParameterSource`."""
        tensor = stored[self.name]
        rest = tensor.shape[1:]
        for start, values in row_chunks(tensor, reader, 0, tensor.shape[0], 1):
            block = values.view(-1, *rest)
            if self._is_matrix_turned(tensor.shape):
                # Rows of the file are columns of the parameter.
                _copy_picked(target[:, start : start + len(block)], block.T, self.picks, 0)
            else:
                turned = block.transpose(1, 2) if self.transposed else block
                _copy_picked(target[start : start + len(block)], turned, self.picks, 1)

    def _is_matrix_turned(self, shape: tuple[int, ...]) -> bool:
        return self.transposed and len(shape) == 2


@dataclass(frozen=True)
class Joined:
    """Parts concatenated along the first dimension."""

    parts: tuple[ParameterSource, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors of all parts."""
        return tuple(name for part in self.parts for name in part.names)

    def shape(self, stored: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        """(rows of all parts, *rest of a part's shape)."""
        shapes = _alike(self.parts, stored, from_dimension=1)
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def read_into(self, stored: Mapping[str, StoredTensor], reader: TensorReader, target: Tensor) -> None:
        """See `ParameterSource`."""
        start = 0
        for part in self.parts:
            rows = part.shape(stored)[0]
            part.read_into(stored, reader, target[start : start + rows])
            start += rows


@dataclass(frozen=True)
class Stacked:
    """Parts of equal shape along a new first dimension."""

    parts: tuple[ParameterSource, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors of all parts."""
        return tuple(name for part in self.parts for name in part.names)

    def shape(self, stored: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        """(number of parts, *shape of a part)."""
        return (len(self.parts), *_alike(self.parts, stored, from_dimension=0)[0])

    def read_into(self, stored: Mapping[str, StoredTensor], reader: TensorReader, target: Tensor) -> None:
        """See `ParameterSource`."""
        for index, part in enumerate(self.parts):
            part.read_into(stored, reader, target[index])


def _has_whole_rows(tensor: TensorInfo) -> bool:
    """Whether each row starts at a byte: true for matrices, and for vectors of plain numbers."""
    return len(tensor.shape) > 1 or tensor.nbytes % max(1, tensor.rows) == 0


def _rows_of(tensor: TensorInfo, start: int, stop: int) -> TensorInfo:
    """Rows `start` to `stop` of a tensor as a tensor."""
    size = tensor.nbytes // tensor.rows
    return replace(
        tensor,
        shape=(stop - start, *tensor.shape[1:]),
        offset=tensor.offset + start * size,
        nbytes=(stop - start) * size,
    )


def _alike(
    parts: tuple[ParameterSource, ...], stored: Mapping[str, StoredTensor], *, from_dimension: int
) -> list[tuple[int, ...]]:
    """The shapes of the parts, which must agree from dimension `from_dimension` on."""
    shapes = [part.shape(stored) for part in parts]
    for part, shape in zip(parts, shapes, strict=True):
        if not shape or shape[from_dimension:] != shapes[0][from_dimension:]:
            raise CheckpointError(
                f"Tensor {part.names[0]} has shape {list(shape)}, "
                f"which does not match {parts[0].names[0]} of shape {list(shapes[0])}."
            )
    return shapes


def row_chunks(
    tensor: StoredTensor, reader: TensorReader, start: int, stop: int, multiple: int
) -> Iterator[tuple[int, Tensor]]:
    """Read rows `start` to `stop` in chunks of a multiple of `multiple` rows; yields first row and values."""
    row_length = max(1, math.prod(tensor.shape[1:]))
    step = max(1, reader.arranged_at_once // (row_length * multiple)) * multiple
    for first in range(start, stop, step):
        yield first, floating_rows(tensor, reader, first, min(stop, first + step))


def floating_rows(tensor: StoredTensor, reader: TensorReader, start: int, stop: int) -> Tensor:
    """The values of rows `start` to `stop`; `CheckpointError` if they are no floating-point numbers."""
    values = tensor.read_rows(reader, start, stop)
    if not values.is_floating_point():
        raise CheckpointError(f"Tensor {tensor.name} holds {values.dtype} numbers; weights must be floating-point.")
    return values


def _copy_picked(target: Tensor, values: Tensor, picks: tuple[slice, ...], dimension: int) -> None:
    """Copy slices of a dimension of `values` into `target`, one after another."""
    start = 0
    for pick in picks:
        # A slice along `dimension`, 0 or 1.
        part = values[pick] if dimension == 0 else values[:, pick]
        size = part.shape[dimension]
        target.narrow(dimension, start, size).copy_(part)
        start += size


def match_tensors(
    parameters: Mapping[str, tuple[int, ...]],
    source_of: Callable[[str], ParameterSource],
    tensors: Mapping[str, StoredTensor],
    *,
    ignored: Callable[[str], bool],
    belongs: Callable[[str], bool],
    where: str,
) -> tuple[dict[str, ParameterSource], list[str]]:
    """Find the source of every parameter, and account for every tensor of the checkpoint.

    `parameters` maps parameter names to shapes. An unused tensor that is not `ignored` and `belongs` to the language
    model is an error: the model computes something that this program does not. Other unused tensors (such as those of
    training tools) give a note for the user; the notes are returned.

    Raises:
        CheckpointError: a tensor is missing, has another shape, or belongs to the model but is not used.
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
        raise CheckpointError(f"{where} holds {_some(ours)}, which the configuration does not describe.")
    return sources, [f"{where} also holds {_some(unused)}, which is not used."] if unused else []


def _some(names: list[str]) -> str:
    if len(names) == 1:
        return f"the tensor {names[0]}"
    return f"{len(names)} tensors ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
