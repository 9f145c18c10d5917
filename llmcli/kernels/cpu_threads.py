"""How many threads to compute with."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path


def default_threads(
    topology: Path = Path("/sys/devices/system/cpu"), quota: Path = Path("/sys/fs/cgroup/cpu.max")
) -> int:
    """One for each physical core that this process may use, within the container's share of processor time."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = set()
    for number in usable:
        folder = topology / f"cpu{number}" / "topology"
        try:
            cores.add((folder.joinpath("physical_package_id").read_text(), folder.joinpath("core_id").read_text()))
        except OSError:
            cores.add((str(number), ""))
    count = len(cores)
    with contextlib.suppress(OSError, ValueError):
        allowed, period = quota.read_text().split()
        count = min(count, math.ceil(int(allowed) / int(period)))
    return max(1, count)
