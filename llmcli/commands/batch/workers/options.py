"""Options that say which workers answer a batch."""

from dataclasses import dataclass
from typing import Annotated

from llmcli.commands.shared.options.flags import RUNNING, flag
from llmcli.errors import UsageError


@dataclass(frozen=True)
class WorkerOptions:
    """How many workers there are, and where."""

    workers: Annotated[
        int | None,
        flag(
            "--workers",
            metavar="N",
            panel=RUNNING,
            min=1,
            max=1024,
            help="Answer with N processes, each with the model and a share of the cores. Default: this process.",
        ),
    ] = None
    """None: with Ray as many as its cluster has GPUs or machines; otherwise none but this process."""
    ray: Annotated[
        str | None,
        flag(
            "--ray",
            metavar="auto|local|HOST:PORT",
            panel=RUNNING,
            help="Answer with actors of Ray: of the cluster that runs, or on this machine.",
        ),
    ] = None
    """The address of Ray's cluster, "auto" or "local"; None: processes of this machine."""
    gpus_per_worker: Annotated[
        float | None,
        flag(
            "--gpus-per-worker",
            metavar="G",
            panel=RUNNING,
            help="With --ray: GPUs of each actor. Default: 1 if there are any.",
        ),
    ] = None
    """GPUs of each actor of Ray; None: one if there are any."""

    def check(self) -> None:
        """Raise `UsageError` for options that contradict each other."""
        if self.gpus_per_worker is not None and (self.ray is None or self.gpus_per_worker < 0):
            raise UsageError("--gpus-per-worker is a number of GPUs for each actor of --ray.")
