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
from llmcli.checkpoint.load_weights import load_weights
from llmcli.checkpoint.rank_part import fingerprint, rank_part
from llmcli.distributed.environment import Launched
from llmcli.distributed.launch import Ranks, start_ranks
from llmcli.distributed.leader import LeadingTransformer, Mirror
from llmcli.distributed.messages import LoadOrder
from llmcli.errors import UsageError
from llmcli.kernels.cpu.threads import default_threads
from llmcli.model.parallel.modules import connect
from llmcli.model.parallel.split import Rank, parts_of


@dataclass(frozen=True)
class SplitRequest:
    """How a model will be loaded by all ranks."""

    count: int
    """Number of ranks."""
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
    part = rank_part(checkpoint, Rank(0, request.count))
    device = _device(request)
    launched = Launched.of(os.environ)
    here = request.count if launched is None else launched.local_count
    threads = request.threads or max(1, default_threads() // here)
    ranks = start_ranks(request.count, threads)
    try:
        if device.type == "cpu":
            torch.set_num_threads(threads)
        return _load(checkpoint, part, request, device, ranks, progress)
    except BaseException:
        ranks.end()
        raise


def _load(
    checkpoint: Checkpoint,
    part: Checkpoint,
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
        kind=LeadingTransformer,
    )
    assert isinstance(model, LeadingTransformer)
    ranks.wait_until_loaded()
    connect(model, whole, parts_of(whole, rank), rank, group)
    model.mirror, model.ranks = Mirror(group), ranks
    weakref.finalize(model, ranks.end)
    return model


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
