"""What killed pulls leave in the hub's cache: unfinished files, which the hub's library never takes up again."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

_SUFFIX = ".incomplete"


def remove_unfinished(repository: Path) -> int:
    """Delete the unfinished files of a repository's folder in the cache that no process writes; returns their bytes.

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
    """Whether a lock that is held keeps others out: some network file systems give it to everyone."""
    try:
        with FileLock(lock, timeout=0, mode=0o664):
            return False
    except Timeout:
        return True
