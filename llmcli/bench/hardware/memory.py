"""What this process has used of the memory. Imports next to nothing: it must not add to what it measures."""

from __future__ import annotations

import sys
from pathlib import Path


def peak_resident_bytes() -> int:
    """The most memory this process has had: `VmHWM` where the system tells it, else `getrusage`, else 0.

    The former is preferred because a new process inherits the latter from the one that started it.
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
    """The lines of a file of the system; none where there is no such file."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
