"""The answers of several workers, each with the model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from llmcli.commands.batch.answers import BatchInput, BatchResult, Report
from llmcli.commands.batch.workers.dispatch import Dispatcher
from llmcli.commands.batch.workers.messages import Transport, WorkerJob
from llmcli.commands.batch.workers.options import WorkerOptions
from llmcli.commands.shared.options.model import ModelOptions
from llmcli.engine.batch.results import BatchStats
from llmcli.views.terminal import terminal
from llmcli.views.terminal.progress import progress_bar

if TYPE_CHECKING:
    from llmcli.checkpoint.checkpoint import Checkpoint
    from llmcli.engine import Interruption


class WorkerAnswers:
    """The answers of workers."""

    def __init__(self, asked: BatchInput, model: str, transport: Transport) -> None:
        """`model` is its name."""
        self.model = model
        self._lines, self._transport = asked.lines, transport
        self.stats = BatchStats(transport.where)

    def run(self, first: int, interruption: Interruption, report: Report) -> Iterator[BatchResult]:
        """See `BatchAnswers`."""
        dispatcher = Dispatcher(self._transport, self._lines[first:], terminal.note)
        self.stats = dispatcher.stats
        started = time.perf_counter()
        for result in dispatcher.run(interruption, report):
            # Prefill and decoding are not told apart: several workers are at different places.
            self.stats.writing_s = time.perf_counter() - started
            yield result


def worker_answers(
    asked: BatchInput, checkpoint: Checkpoint, parallel: int | None, options: WorkerOptions
) -> WorkerAnswers:
    """The answers of processes of this machine, or of actors of Ray.

    Raises:
        OutOfMemoryError: the model does not fit into the memory of this machine that many times.
        UsageError: Ray is not installed, has no such cluster, or its cluster is too small.
    """
    job = worker_job(asked, checkpoint, parallel)
    if options.ray is not None:
        return WorkerAnswers(asked, checkpoint.name, _actors(job, checkpoint, options, options.ray))
    from llmcli.commands.batch.workers.processes import Processes
    from llmcli.device import gpu_count

    assert options.workers is not None
    gpus = gpu_count(asked.model.device)
    _check_copies(checkpoint, asked.model, -(-options.workers // max(1, gpus)))
    return WorkerAnswers(asked, checkpoint.name, Processes(job, options.workers, gpus))


def _actors(job: WorkerJob, checkpoint: Checkpoint, options: WorkerOptions, address: str) -> Transport:
    from llmcli.commands.batch.workers.ray_actors import RayActors, actor_share, connect
    from llmcli.kernels.cpu.threads import default_threads

    model = job.asked.model
    with progress_bar("Starting Ray", unit=""):
        threads = default_threads() if model.threads is None else model.threads * (options.workers or 1)
        cluster = connect(address, options.workers, threads)
    share = actor_share(cluster, options.workers, options.gpus_per_worker, model.threads)
    if cluster.is_local and not share.gpus:
        # On other machines each actor checks its own.
        _check_copies(checkpoint, replace(model, device="cpu"), share.count)
    return RayActors(job, share)


def _check_copies(checkpoint: Checkpoint, options: ModelOptions, copies: int) -> None:
    from llmcli.api import check_copies

    check_copies(
        checkpoint,
        copies,
        device=options.device,
        dtype=options.dtype,
        quantize=options.quantize,
        kv_cache=options.kv_cache,
        context_length=options.context,
    )


def worker_job(asked: BatchInput, checkpoint: Checkpoint, parallel: int | None) -> WorkerJob:
    """What a worker needs to know of the batch."""
    # An absolute path: the model is resolved, and perhaps downloaded, only once.
    model = replace(asked.model, model=str(checkpoint.path.absolute()), server="off")
    return WorkerJob(replace(asked, lines=(), model=model), parallel)
