"""How many threads to compute with, and on which cores."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def physical_cores(topology: Path = _TOPOLOGY) -> list[list[int]]:
    """The processors this process may use, those of one physical core together."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores: dict[tuple[str, str], list[int]] = {}
    for number in sorted(usable):
        folder = topology / f"cpu{number}" / "topology"
        try:
            core = folder.joinpath("physical_package_id").read_text(), folder.joinpath("core_id").read_text()
        except OSError:
            core = str(number), ""
        cores.setdefault(core, []).append(number)
    return list(cores.values())


def default_threads(topology: Path = _TOPOLOGY, quota: Path = _QUOTA) -> int:
    """One for each physical core that this process may use, within the container's share of processor time."""
    count = len(physical_cores(topology))
    with contextlib.suppress(OSError, ValueError):
        allowed, period = quota.read_text().split()
        count = min(count, math.ceil(int(allowed) / int(period)))
    return max(1, count)
