"""The answers of several workers, each with the model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from llmcli.commands.batch.answers import BatchInput, BatchResult, Report
from llmcli.commands.batch.workers.dispatch import Dispatcher
from llmcli.commands.batch.workers.messages import Transport, WorkerJob
from llmcli.engine.batch.results import BatchStats
from llmcli.views.terminal import terminal

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


def local_workers(asked: BatchInput, checkpoint: Checkpoint, parallel: int | None, count: int) -> WorkerAnswers:
    """The answers of `count` processes of this machine.

    Raises:
        OutOfMemoryError: the model does not fit into memory that many times.
    """
    from llmcli.api import check_copies
    from llmcli.commands.batch.workers.processes import Processes
    from llmcli.device import gpu_count

    gpus = gpu_count(asked.model.device)
    options = asked.model
    check_copies(
        checkpoint,
        -(-count // max(1, gpus)),
        device=options.device,
        dtype=options.dtype,
        quantize=options.quantize,
        kv_cache=options.kv_cache,
        context_length=options.context,
    )
    return WorkerAnswers(asked, checkpoint.name, Processes(worker_job(asked, checkpoint, parallel), count, gpus))


def worker_job(asked: BatchInput, checkpoint: Checkpoint, parallel: int | None) -> WorkerJob:
    """What a worker needs to know of the batch."""
    # An absolute path: the model is resolved, and perhaps downloaded, only once.
    model = replace(asked.model, model=str(checkpoint.path.absolute()), server="off")
    return WorkerJob(replace(asked, lines=(), model=model), parallel)
