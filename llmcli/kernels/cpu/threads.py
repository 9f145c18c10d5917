"""The number of threads of the C kernel, and the cores for them."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def physical_cores(topology: Path = _TOPOLOGY) -> list[list[int]]:
    """The logical processors that this process may use, grouped by physical core."""
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
    """One thread for each physical core that this process may use, but no more than the container's CPU quota."""
    count = len(physical_cores(topology))
    with contextlib.suppress(OSError, ValueError):
        allowed, period = quota.read_text().split()
        count = min(count, math.ceil(int(allowed) / int(period)))
    return max(1, count)
