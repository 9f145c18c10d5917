"""Workers that are processes of this machine, each with a part of its cores, or a GPU."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from llmcli.commands.batch.input import Line
from llmcli.commands.batch.workers.messages import Events, WorkerEnded, WorkerJob
from llmcli.commands.batch.workers.work import job_for
from llmcli.kernels.cpu.threads import default_threads, physical_cores

_MODULE = "llmcli.commands.batch.workers.process"


@dataclass(frozen=True)
class Share:
    """What a worker has of the machine."""

    threads: int
    cpus: tuple[int, ...]
    """The logical processors that it runs on; empty: all."""
    device: str | None
    """Its GPU; None: as the command line says."""


def share(place: int, count: int, cores: Sequence[Sequence[int]], threads: int, gpus: int) -> Share:
    """The share of the worker at `place` of `count`: of `threads` for all workers, physical `cores`, and GPUs."""
    start, stop = place * len(cores) // count, (place + 1) * len(cores) // count
    # With a worker for each core or more, the system distributes them better.
    own = cores[start:stop] if len(cores) >= count else []
    cpus = tuple(cpu for core in own for cpu in core)
    return Share(max(1, threads // count), cpus, f"cuda:{place % gpus}" if gpus > 1 else None)


class Processes:
    """Starts workers as processes, and talks with them through pipes."""

    where = "processes"

    def __init__(self, job: WorkerJob, count: int, gpus: int) -> None:
        """`gpus`: how many GPUs the workers take by turns; 0 for none, or for that of the command line."""
        self.count = count
        self._job, self._gpus = job, gpus
        self._cores, self._threads = physical_cores(), default_threads()

    def start(self, number: int, place: int, events: Events) -> Process:
        """See `Transport`."""
        own = share(place, self.count, self._cores, self._threads, self._gpus)
        threads = self._job.asked.model.threads or own.threads
        return Process(number, job_for(self._job, device=own.device, threads=threads), own.cpus, events)

    def close(self) -> None:
        """See `Transport`."""


class Process:
    """A worker's process."""

    def __init__(self, number: int, job: WorkerJob, cpus: tuple[int, ...], events: Events) -> None:
        self._number, self._events = number, events
        self._process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, *map(str, cpus)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": str(job.asked.model.threads)},
        )
        self._send(job)
        self._reader = threading.Thread(target=self._read, daemon=True, name=f"worker {number}")
        self._reader.start()

    def give(self, lines: Sequence[Line]) -> None:
        """See `Worker`."""
        self._send(lines)

    def end(self) -> None:
        """See `Worker`."""
        self._process.kill()
        self._reader.join()

    def _send(self, value: object) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        # The reader closes the pipe of a process that has ended, and reports it.
        with suppress(BrokenPipeError, ValueError):
            pickle.dump(value, stdin)
            stdin.flush()

    def _read(self) -> None:
        """Pass the messages of the process on, until it ends."""
        process = self._process
        assert process.stdout is not None and process.stdin is not None
        with process.stdout, suppress(EOFError, pickle.UnpicklingError):
            while True:
                self._events.put((self._number, pickle.load(process.stdout)))
        code = process.wait()
        with suppress(BrokenPipeError):
            process.stdin.close()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        self._events.put((self._number, WorkerEnded(how)))
