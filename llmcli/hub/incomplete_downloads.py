"""Delete unfinished files that killed pulls left in the hub cache; the hub library never resumes them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

_SUFFIX = ".incomplete"


def remove_unfinished(repository: Path) -> int:
    """Delete unfinished files in a repository's cache folder that no process is writing; returns their bytes.

    While the library writes `<blob>.<random>.incomplete`, it holds the lock `.locks/<repository>/<blob>.lock`.
    """
    freed = 0
    locks = repository.parent / ".locks" / repository.name
    for path in sorted((repository / "blobs").glob(f"*{_SUFFIX}")):
        lock = locks / f"{path.name.partition('.')[0]}.lock"
        with suppress(OSError, NotImplementedError, Timeout):
            lock.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(lock, timeout=0, mode=0o664):
                if _is_held(lock):
                    size = path.stat().st_size
                    path.unlink()
                    freed += size
    return freed


def _is_held(lock: Path) -> bool:
    """Whether a held lock excludes others: some network file systems grant it to every process."""
    try:
        with FileLock(lock, timeout=0, mode=0o664):
            return False
    except Timeout:
        return True
