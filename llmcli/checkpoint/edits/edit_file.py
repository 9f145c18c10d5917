"""Edit files: rank-one updates of feed-forward weights, tied to the weights they were made for.

A safetensors file with the tensors `layers.N.read` (I,) and `layers.N.write` (C,), float32, for each changed block; its
metadata hold the request. Dimension letters: I neurons, C hidden size.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmcli.checkpoint.checkpoint import Checkpoint
from llmcli.checkpoint.file_hashes import weights_hash
from llmcli.checkpoint.files.weight_file import WeightFile
from llmcli.checkpoint.huggingface.safetensors_writer import Planned, write_safetensors
from llmcli.errors import CheckpointError, LlmcliError, UnsupportedModelError
from llmcli.files import replace_bytes
from llmcli.model import Transformer
from llmcli.model.rank_one_update import attach_edit, detach_edit

FORMAT = "llmcli.edit/1"
_TENSOR = re.compile(r"layers\.(0|[1-9]\d{0,4})\.(read|write)")
_LONGEST = 1 << 24


@dataclass(frozen=True, eq=False)
class LayerUpdate:
    """The rank-one update `write read^T` of the output projection of a block's feed-forward network."""

    layer: int
    read: Tensor
    """(I,), float32."""
    write: Tensor
    """(C,), float32."""


@dataclass(frozen=True, eq=False)
class Edit:
    """A changed fact, and the updates that change it."""

    model: str
    """The model's name."""
    model_sha256: str
    """`weights_hash` of the model that the edit was made for."""
    prompt: str
    subject: str
    target: str
    updates: tuple[LayerUpdate, ...]
    source: Path | None = None
    """The file it was read from."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Indices of the changed blocks."""
        return tuple(update.layer for update in self.updates)


def write_edit(path: Path, edit: Edit) -> None:
    """Write an edit atomically; missing folders are created.

    Raises:
        LlmcliError: it cannot be written.
    """
    values = {
        f"layers.{update.layer}.{part}": getattr(update, part).float()
        for update in edit.updates
        for part in ("read", "write")
    }
    about = {
        "format": FORMAT,
        "model": edit.model,
        "model_sha256": edit.model_sha256,
        "prompt": edit.prompt,
        "subject": edit.subject,
        "target": edit.target,
    }
    data = io.BytesIO()
    planned = [Planned(name, torch.float32, tuple(value.shape)) for name, value in values.items()]
    for _ in write_safetensors(data, planned, values.values(), about):
        pass
    try:
        replace_bytes(path, data.getvalue())
    except OSError as error:
        raise LlmcliError(f"{path} could not be written: {error.strerror}.") from None


def read_edit(path: Path) -> Edit:
    """Read an edit file and check it.

    Raises:
        CheckpointError: the file cannot be read, is damaged, or is no edit.
        UnsupportedModelError: a later version of the format.
    """
    WeightFile(path).close()  # raises for a pipe or device, which the library would wait for
    from safetensors import SafetensorError, safe_open  # few runs read an edit

    file: Any
    try:
        with safe_open(path, "pt", backend="pread") as file:
            return _read_edit(path, file)
    except (SafetensorError, OSError):
        raise _not_an_edit(path) from None


def _not_an_edit(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is not an edit, or not all of one; give a file that llm edit has written.")


def _read_edit(path: Path, file: Any) -> Edit:
    """Read the edit in a file that the safetensors library has opened."""
    about: dict[str, str] = file.metadata() or {}
    kind = about.get("format", "")
    if kind != FORMAT:
        if kind.startswith("llmcli.edit/"):
            raise UnsupportedModelError(f"{path} is an edit of a later version ({kind}) than this program reads.")
        raise _not_an_edit(path)
    keys = ("model", "model_sha256", "prompt", "subject", "target")
    if missing := [key for key in keys if key not in about]:
        raise CheckpointError(f"{path} is a damaged edit: it has no {missing[0]}.")
    found: dict[int, dict[str, Tensor]] = {}
    for name in file.keys():  # noqa: SIM118 (not a mapping)
        match, stored = _TENSOR.fullmatch(name), file.get_slice(name)
        shape = stored.get_shape()
        if match is None or len(shape) != 1 or stored.get_dtype() != "F32" or not 0 < shape[0] <= _LONGEST:
            raise CheckpointError(f"{path} is a damaged edit: it holds tensors that are not updates.")
        vector = stored[:]
        if not bool(vector.isfinite().all()):
            raise CheckpointError(f"{path} is a damaged edit: an update is not finite.")
        found.setdefault(int(match[1]), {})[match[2]] = vector
    if not found or any(len(parts) != 2 for parts in found.values()):
        raise CheckpointError(f"{path} is a damaged edit: an update is incomplete.")
    updates = tuple(LayerUpdate(layer, parts["read"], parts["write"]) for layer, parts in sorted(found.items()))
    return Edit(**{key: about[key] for key in keys}, updates=updates, source=path)


def read_edits(
    checkpoint: Checkpoint, paths: Sequence[Path], progress: Callable[[int, int], None] | None = None
) -> tuple[Edit, ...]:
    """Read edit files and check that they were made for the checkpoint's weights.

    `progress` is called with the bytes of the model's files hashed so far, and their total.

    Raises:
        CheckpointError: a file is no edit, or was made for other weights.
    """
    edits = tuple(map(read_edit, paths))
    if edits:
        ours = weights_hash(checkpoint, progress)
        for edit in edits:
            if edit.model_sha256 != ours:
                raise CheckpointError(
                    f"{edit.source} was made for {edit.model} (weights {edit.model_sha256[:12]}), not for "
                    f"{checkpoint.name} as it is here ({ours[:12]}). Use that model, or make the edit anew."
                )
    return edits


@contextmanager
def edited(model: Transformer, edits: Sequence[Edit]) -> Iterator[None]:
    """Apply edits to the model inside the block; afterwards its weights are bit for bit the old ones.

    Raises:
        CheckpointError: an edit does not fit the model.
    """
    before = apply_edits(model, edits)
    try:
        yield
    finally:
        for layer, down in before.items():
            detach_edit(model.layers[layer].mlp, down)  # type: ignore[arg-type]


def apply_edits(model: Transformer, edits: Sequence[Edit]) -> Mapping[int, torch.nn.Module]:
    """Apply edits to the model; returns the previous output projections of the changed blocks, by layer.

    Raises:
        CheckpointError: an edit does not fit the model.
    """
    before: dict[int, torch.nn.Module] = {}
    for edit in edits:
        for update in edit.updates:
            try:
                if update.layer >= len(model.layers):
                    raise ValueError(f"there are only {len(model.layers)} blocks")
                down = attach_edit(model.layers[update.layer].mlp, update.read, update.write)  # type: ignore[arg-type]
            except ValueError as error:
                where = edit.source or f"The edit of {edit.subject!r}"
                raise CheckpointError(f"{where} does not fit the model in block {update.layer}: {error}.") from None
            before.setdefault(update.layer, down)
    return before
