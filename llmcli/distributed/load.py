"""Loading a model that is split over ranks, in rank 0."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed

from llmcli.checkpoint.checkpoint import Checkpoint
from llmcli.checkpoint.load_packed import Packing
from llmcli.checkpoint.load_weights import load_weights
from llmcli.checkpoint.rank_part import fingerprint, rank_part, stage_part
from llmcli.distributed.environment import Launched
from llmcli.distributed.launch import Ranks, start_ranks
from llmcli.distributed.leader import LeadingStage, LeadingTransformer, Mirror
from llmcli.distributed.messages import LoadOrder
from llmcli.errors import UsageError
from llmcli.kernels.cpu.threads import default_threads
from llmcli.model.parallel.modules import connect
from llmcli.model.parallel.split import Rank, parts_of
from llmcli.model.parallel.stages import stage_layers


@dataclass(frozen=True)
class SplitRequest:
    """How a model will be loaded by all ranks."""

    count: int
    """Number of ranks."""
    pipeline: bool
    """Whether ranks have layers, not parts of all layers."""
    device: torch.device
    dtype: torch.dtype
    packing: Packing | None
    context: int | None
    threads: int | None
    """Threads of each rank on a CPU; None: the cores divided by the ranks."""


def load_split(
    checkpoint: Checkpoint, request: SplitRequest, progress: Callable[[int, int], None] | None = None
) -> LeadingTransformer:
    """Start the other ranks, load the part of rank 0, and wait until the others have theirs.

    Raises:
        UnsupportedModelError: the model cannot be split over that number of ranks.
        UsageError: there are not enough GPUs, or torchrun has started another number of ranks.
        RankError: a rank could not start, or could not load its part.
        OutOfMemoryError: the part of rank 0 does not fit.
    """
    if torch.distributed.is_initialized():
        raise UsageError(
            "This process already has a model that is split over ranks. Delete it, or use another process."
        )
    device = _device(request)
    stages = stage_layers(checkpoint.config, request.count, _shares(request)) if request.pipeline else None
    part = rank_part(checkpoint, Rank(0, request.count)) if stages is None else stage_part(checkpoint, stages[0])
    launched = Launched.of(os.environ)
    here = request.count if launched is None else launched.local_count
    threads = request.threads or max(1, default_threads() // here)
    ranks = start_ranks(request.count, threads)
    try:
        if device.type == "cpu":
            torch.set_num_threads(threads)
        return _load(checkpoint, part, stages, request, device, ranks, progress)
    except BaseException:
        ranks.end()
        raise


def _load(
    checkpoint: Checkpoint,
    part: Checkpoint,
    stages: list[range] | None,
    request: SplitRequest,
    device: torch.device,
    ranks: Ranks,
    progress: Callable[[int, int], None] | None,
) -> LeadingTransformer:
    whole, rank = checkpoint.config, ranks.rank

    def report(done: int, total: int) -> None:
        ranks.check()
        if progress is not None:
            progress(done, total)

    group = ranks.join(device)
    order = LoadOrder(
        path=str(checkpoint.path.absolute()),
        dtype=str(request.dtype).removeprefix("torch."),
        packing=request.packing,
        int8_cache=whole.int8_cache,
        context=request.context,
        stages=None if stages is None else [[layers.start, layers.stop] for layers in stages],
        fingerprint=fingerprint(checkpoint),
    )
    group.send("load", order.as_arguments())
    model = load_weights(
        part,
        device,
        request.dtype,
        report,
        packing=request.packing,
        context=request.context,
        may_pack=False,
        kind=LeadingTransformer if stages is None else partial(LeadingStage, rank=rank),
    )
    assert isinstance(model, LeadingTransformer)
    ranks.wait_until_loaded()
    if isinstance(model, LeadingStage):
        model.neighbors = group
    else:
        connect(model, whole, parts_of(whole, rank), rank, group)
    model.mirror, model.ranks = Mirror(group), ranks
    weakref.finalize(model, ranks.end)
    return model


def _shares(request: SplitRequest) -> list[float] | None:
    """The memory of each GPU of this machine, where each rank has one; None: all ranks get equal parts."""
    if request.device.type != "cuda" or Launched.of(os.environ) is not None:
        return None
    return [float(torch.cuda.get_device_properties(index).total_memory) for index in range(request.count)]


def _device(request: SplitRequest) -> torch.device:
    """The device of rank 0: one GPU for each rank of a machine, or the CPU for all."""
    if request.device.type != "cuda":
        return request.device
    launched = Launched.of(os.environ)
    here = request.count if launched is None else launched.local_count
    if here > torch.cuda.device_count():
        raise UsageError(
            f"{here} ranks need {here} GPUs, and this machine has {torch.cuda.device_count()}. "
            "Use fewer ranks, or --device cpu."
        )
    torch.cuda.set_device(0)
    return torch.device("cuda", 0)
