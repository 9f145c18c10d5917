"""Loading a model that is split over ranks, in rank 0."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed

from llmcli.checkpoint.checkpoint import Checkpoint
from llmcli.checkpoint.load_packed import Packing
from llmcli.checkpoint.rank_part import fingerprint
from llmcli.distributed.environment import Launched
from llmcli.distributed.launch import Ranks, start_ranks
from llmcli.distributed.leader import LeadingStage, LeadingTransformer, Mirror
from llmcli.distributed.messages import LoadOrder
from llmcli.distributed.part import load_part, part_of
from llmcli.errors import UsageError
from llmcli.kernels.cpu.threads import default_threads
from llmcli.model.parallel.split import Rank
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
    launched = Launched.of(os.environ)
    here = request.count if launched is None else launched.local_count
    device = _device(request.device, here)
    stages = None
    if request.pipeline:
        shares = None if launched is not None else _shares(request)
        stages = [[layers.start, layers.stop] for layers in stage_layers(checkpoint.config, request.count, shares)]
    part = part_of(checkpoint, Rank(0, request.count), stages)
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
    stages: list[list[int]] | None,
    request: SplitRequest,
    device: torch.device,
    ranks: Ranks,
    progress: Callable[[int, int], None] | None,
) -> LeadingTransformer:
    def report(done: int, total: int) -> None:
        ranks.check()
        if progress is not None:
            progress(done, total)

    group = ranks.join(device)
    order = LoadOrder(
        path=str(checkpoint.path.absolute()),
        dtype=str(request.dtype).removeprefix("torch."),
        packing=request.packing,
        int8_cache=checkpoint.config.int8_cache,
        context=request.context,
        stages=stages,
        fingerprint=fingerprint(checkpoint),
    )
    group.send("load", order.as_arguments())
    model = load_part(
        checkpoint, part, order, group, device, kind=LeadingTransformer, stage=LeadingStage, progress=report
    )
    assert isinstance(model, LeadingTransformer)
    ranks.wait_until_loaded()
    model.mirror, model.ranks = Mirror(group), ranks
    weakref.finalize(model, ranks.end)
    return model


def _shares(request: SplitRequest) -> list[float] | None:
    """The memory of each GPU of this machine, where each rank has one; None: all ranks get equal parts."""
    if request.device.type != "cuda":
        return None
    return [float(torch.cuda.get_device_properties(index).total_memory) for index in range(request.count)]


def _device(asked: torch.device, here: int) -> torch.device:
    """The device of rank 0, with `here` ranks on this machine: one GPU for each, or the CPU for all."""
    if asked.type != "cuda":
        return asked
    if here > torch.cuda.device_count():
        raise UsageError(
            f"{here} ranks need {here} GPUs, and this machine has {torch.cuda.device_count()}. "
            "Use fewer ranks, or --device cpu."
        )
    torch.cuda.set_device(0)
    return torch.device("cuda", 0)
