"""The part of a model that a rank has: which it is, and loading it. The same in rank 0 and in the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from llmcli.checkpoint.checkpoint import Checkpoint
from llmcli.checkpoint.load_weights import load_weights
from llmcli.checkpoint.rank_part import rank_part, stage_part
from llmcli.distributed.group import Group
from llmcli.distributed.messages import LoadOrder
from llmcli.model.parallel.modules import connect
from llmcli.model.parallel.split import Rank, parts_of
from llmcli.model.parallel.stages import PipelineStage
from llmcli.model.transformer import Transformer


def part_of(checkpoint: Checkpoint, rank: Rank, stages: Sequence[Sequence[int]] | None) -> Checkpoint:
    """The checkpoint as `rank` sees it; `stages` are those of `LoadOrder`.

    Raises:
        UnsupportedModelError: the model cannot be split over that number of ranks.
    """
    return rank_part(checkpoint, rank) if stages is None else stage_part(checkpoint, range(*stages[rank.index]))


def load_part(
    checkpoint: Checkpoint,
    part: Checkpoint,
    order: LoadOrder,
    group: Group,
    device: torch.device,
    *,
    kind: type[Transformer] = Transformer,
    stage: type[PipelineStage] = PipelineStage,
    progress: Callable[[int, int], None] | None = None,
) -> Transformer:
    """Load the `part` of a `checkpoint` that the rank of `group` has, and connect it with the others.

    The model is a `kind`, or in a pipeline a `stage`.

    Raises:
        CheckpointError: a file ends too early or cannot be read.
        OutOfMemoryError: the part does not fit into memory.
    """
    model = load_weights(
        part,
        device,
        getattr(torch, order.dtype),
        progress,
        packing=order.packing,
        context=order.context,
        may_pack=False,
        kind=kind if order.stages is None else partial(stage, rank=group.rank),
    )
    if isinstance(model, PipelineStage):
        model.neighbors = group
    else:
        connect(model, checkpoint.config, parts_of(checkpoint.config, group.rank), group.rank, group)
    return model
