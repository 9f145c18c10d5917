"""Workers that are actors of Ray: on this machine, or on those of a cluster. The only module that imports Ray."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from llmcli.commands.batch.input import Line
from llmcli.commands.batch.workers.messages import Events, Message, WorkerEnded, WorkerJob
from llmcli.commands.batch.workers.work import job_for, work
from llmcli.errors import UsageError
from llmcli.extras import install_command


@dataclass(frozen=True)
class Cluster:
    """What a cluster has."""

    cpus: int
    gpus: float
    nodes: int
    is_local: bool
    """Whether it was started for this command, on this machine."""


@dataclass(frozen=True)
class ActorShare:
    """How many actors there are, and what each takes of the cluster."""

    count: int
    cpus: int
    gpus: float


def connect(address: str, count: int | None, threads: int) -> Cluster:
    """Connect with the cluster at `address`, "auto" or "local".

    "auto" is the cluster that RAY_ADDRESS names or that runs on this machine; without one, and with "local", Ray is
    started here, for `count` actors and `threads` threads, and ends with the command.

    Raises:
        UsageError: Ray is not installed, or there is no cluster at the address.
    """
    if "://" in address:
        raise UsageError(f"--ray needs host:port of a cluster that this machine belongs to, not {address}.")
    ray = _ray()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address != "local":
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            if address != "auto" or os.environ.get("RAY_ADDRESS"):
                where = os.environ.get("RAY_ADDRESS") if address == "auto" else address
                raise UsageError(f"There is no Ray cluster at {where}: {str(error).splitlines()[0]}") from None
        else:
            found = ray.cluster_resources()
            nodes = sum(node["Alive"] for node in ray.nodes())
            return Cluster(int(found.get("CPU", 0)), found.get("GPU", 0), nodes, is_local=False)
    # It still listens on all interfaces, but needs no name or route of this machine.
    cpus = max(count or 1, threads)
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
    return Cluster(cpus, ray.cluster_resources().get("GPU", 0), 1, is_local=True)


def actor_share(cluster: Cluster, count: int | None, gpus: float | None, threads: int | None) -> ActorShare:
    """The share of each of `count` actors; by default one for each GPU, or for each machine of a cluster without.

    Raises:
        UsageError: the cluster does not have that much.
    """
    if gpus is None:
        gpus = 1.0 if cluster.gpus else 0.0
    if count is None:
        count = max(1, int(cluster.gpus / gpus)) if gpus else cluster.nodes
    cpus = threads or max(1, cluster.cpus // count)
    for needed, there, what in ((count * cpus, cluster.cpus, "cores"), (count * gpus, cluster.gpus, "GPUs")):
        if needed > there:
            raise UsageError(
                f"{count} workers need {needed:g} {what}, and the Ray cluster has {there:g}. "
                "Use fewer --workers, --threads or --gpus-per-worker."
            )
    return ActorShare(count, cpus, gpus)


class RayActors:
    """Starts workers as actors of Ray."""

    where = "Ray actors"

    def __init__(self, job: WorkerJob, share: ActorShare) -> None:
        self.count = share.count
        self._job = job_for(job, threads=share.cpus)
        # One call passes messages on while others bring lines.
        options = {"num_cpus": share.cpus, "num_gpus": share.gpus, "max_concurrency": 2, "max_restarts": 0}
        self._kind: Any = _ray().remote(**options)(BatchActor)

    def start(self, number: int, place: int, events: Events) -> RayActor:
        """See `Transport`."""
        return RayActor(number, self._kind.remote(self._job), events)

    def close(self) -> None:
        """See `Transport`."""
        _ray().shutdown()


class RayActor:
    """An actor, as the dispatcher sees it."""

    def __init__(self, number: int, actor: Any, events: Events) -> None:
        self._number, self._actor, self._events = number, actor, events
        self._ends = False
        self._reader = threading.Thread(target=self._read, daemon=True, name=f"actor {number}")
        self._reader.start()

    def give(self, lines: Sequence[Line]) -> None:
        """See `Worker`."""
        # The reader reports an actor that has ended.
        with suppress(_ray().exceptions.RayError):
            self._actor.give.remote(lines)

    def end(self) -> None:
        """See `Worker`."""
        self._ends = True
        _ray().kill(self._actor)
        self._reader.join()

    def _read(self) -> None:
        """Pass the messages of the actor on, until it ends."""
        ray = _ray()
        how = "ended"
        try:
            for message in self._actor.messages.options(num_returns="streaming").remote():
                self._events.put((self._number, ray.get(message)))
        except ray.exceptions.RayError as error:
            how = f"ended ({type(error).__name__})"
        if not self._ends:
            ray.kill(self._actor)
        self._events.put((self._number, WorkerEnded(how)))


class BatchActor:
    """The actor: it answers lines in a thread, as a process would."""

    def __init__(self, job: WorkerJob) -> None:
        self._job = job
        self._inbox: SimpleQueue[Sequence[Line]] = SimpleQueue()

    def give(self, lines: Sequence[Line]) -> None:
        """Take lines to answer."""
        self._inbox.put(lines)

    def messages(self) -> Iterator[Message]:
        """Load the model and answer lines; the messages about it, until an error."""
        outbox: SimpleQueue[Message | None] = SimpleQueue()

        def answer() -> None:
            try:
                work(self._job, self._inbox, outbox.put)
            finally:
                outbox.put(None)

        threading.Thread(target=answer, daemon=True, name="answers").start()
        while (message := outbox.get()) is not None:
            yield message


def _ray() -> Any:
    # Nothing about a batch is sent to the makers of Ray.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError(f"--ray needs Ray ({error}). This installs it: {install_command('ray')}") from None
    return ray
