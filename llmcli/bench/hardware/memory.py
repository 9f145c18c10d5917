"""The peak memory of this process. Imports very little, so as not to add to it."""

from __future__ import annotations

import sys
from pathlib import Path


def peak_resident_bytes() -> int:
    """Peak resident memory of this process: `VmHWM` if the system reports it, else `getrusage`, else 0.

    `VmHWM` is preferred because a new process inherits the value of `getrusage` from its parent.
    """
    for line in lines_of("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def lines_of(path: str) -> list[str]:
    """The lines of a system file; empty if there is no such file."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
