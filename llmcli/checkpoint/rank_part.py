"""The part of a checkpoint that one of several ranks reads."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from llmcli.checkpoint.checkpoint import Checkpoint
from llmcli.checkpoint.quantized.base import QuantizedTensor
from llmcli.checkpoint.tensors.parameter_sources import ParameterSource
from llmcli.checkpoint.tensors.partial_sources import SomeColumns, some_rows
from llmcli.checkpoint.tensors.repack import bits_of
from llmcli.checkpoint.tensors.tensor_info import StoredTensor, TensorInfo
from llmcli.errors import UnsupportedModelError
from llmcli.model.parallel.split import Part, Rank, parts_by_rank, rank_config, rank_counts
from llmcli.model.parallel.stages import stage_config
from llmcli.model.quantized.layout import COLUMNS

# Of each file, this many pieces of this size are compared between machines.
_SAMPLES = 16
_SAMPLE_BYTES = 1 << 16


def rank_part(checkpoint: Checkpoint, rank: Rank) -> Checkpoint:
    """The checkpoint as `rank` sees it: smaller sizes, and sources that read its part of each parameter.

    Raises:
        UnsupportedModelError: the model cannot be split over that number of ranks.
    """
    config = rank_config(checkpoint.config, rank)
    by_rank = parts_by_rank(checkpoint.config, rank.count)
    if cut := _cut_groups(checkpoint, by_rank):
        counts = ", ".join(map(str, _possible(checkpoint))) or "none"
        raise UnsupportedModelError(
            f"{checkpoint.path}: each {COLUMNS} columns of {cut} share a scale, and {rank.count} ranks would cut "
            f"between them. Numbers of ranks that do not: {counts}."
        )
    sources = {
        name: _part(source, by_rank[rank.index].get(name), checkpoint.tensors)
        for name, source in checkpoint.sources.items()
    }
    return replace(checkpoint, config=config, sources=sources)


def stage_part(checkpoint: Checkpoint, layers: range) -> Checkpoint:
    """The checkpoint as a stage of a pipeline sees it: the parameters of its `layers`, under its own numbers."""
    sources = {
        re.sub(r"^layers\.(\d+)", lambda found: f"layers.{int(found[1]) - layers.start}", name): source
        for name, source in checkpoint.sources.items()
        if not name.startswith("layers.") or int(name.split(".")[1]) in layers
    }
    if checkpoint.config.tie_embeddings:
        sources["lm_head.weight"] = sources["embed_tokens.weight"]
    return replace(checkpoint, config=stage_config(checkpoint.config, layers), sources=sources)


def _part(source: ParameterSource, part: Part | None, stored: Mapping[str, StoredTensor]) -> ParameterSource:
    if part is None:
        return source
    if part.dimension == 1:
        return SomeColumns(source, part.start, part.stop)
    return some_rows(source, stored, part.start, part.stop)


def _cut_groups(checkpoint: Checkpoint, by_rank: Sequence[Mapping[str, Part]]) -> str | None:
    """A parameter whose groups of columns the ranks would cut; None: there is none."""
    for parts in by_rank:
        for name, part in parts.items():
            grouped = part.dimension == 1 and (
                part.start % COLUMNS or part.stop % COLUMNS not in (0, part.whole[1] % COLUMNS)
            )
            if grouped and any(map(_has_groups, (checkpoint.tensors[one] for one in checkpoint.sources[name].names))):
                return name
    return None


def _has_groups(tensor: StoredTensor) -> bool:
    if isinstance(tensor, QuantizedTensor):
        return tensor.groups is not None
    return bits_of(tensor.encoding) is not None


def _possible(checkpoint: Checkpoint) -> list[int]:
    counts = rank_counts(checkpoint.config, 16)
    return [count for count in counts if _cut_groups(checkpoint, parts_by_rank(checkpoint.config, count)) is None]


def fingerprint(checkpoint: Checkpoint) -> str:
    """A digest of a checkpoint's headers and of samples of its files, to tell whether two machines have the same."""
    digest = hashlib.sha256(repr(checkpoint.config).encode())
    files: dict[Path, int] = {}
    for name, tensor in sorted(checkpoint.tensors.items()):
        digest.update(repr((name, tensor.shape, tensor.encoding, tensor.nbytes)).encode())
        for part in tensor.parts if isinstance(tensor, QuantizedTensor) else (tensor,):
            if isinstance(part, TensorInfo):
                files.setdefault(part.path, len(files))
    for path in files:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            for at in range(_SAMPLES):
                file.seek(size * at // _SAMPLES)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
