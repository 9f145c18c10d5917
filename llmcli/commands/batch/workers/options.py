"""Which workers answer a batch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WorkerOptions:
    """How many workers there are, and where."""

    count: int | None
    """None: with Ray as many as its cluster has GPUs or machines; otherwise none but this process."""
    ray: str | None
    """The address of Ray's cluster, "auto" or "local"; None: processes of this machine."""
    gpus: float | None
    """GPUs of each actor of Ray; None: one if there are any."""
