"""The model store: a folder in the platform's data folder with one file per model, or the shards of one.

Files are written in a working folder below `.partial`, synced and renamed, so that only complete files have their final
names. Its process holds a lock; folders of killed processes are removed by the next one.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from llmcli.checkpoint.gguf.model_files import gguf_models
from llmcli.errors import LlmcliError, ModelNotFoundError
from llmcli.paths import data_folder

Progress = Callable[[str, int, int | None], None]
"""Called with the current action, the bytes done and the total (None: unknown)."""


@dataclass(frozen=True)
class StoreEntry:
    """A model in the store."""

    name: str
    """The name of its (first) file."""
    path: Path
    bytes: int
    modified: float
    """Seconds since the epoch."""
    parts: tuple[Path, ...] = ()
    """All its files if there are several, else empty."""


def no_progress(what: str, done: int, total: int | None) -> None:
    """A `Progress` that reports nothing."""


def store_folder() -> Path:
    """The store's folder (it may not exist yet); `XDG_DATA_HOME` and its relatives apply."""
    return data_folder() / "models"


def entries() -> list[StoreEntry]:
    """The complete models in the store, by name; empty if the folder does not exist or cannot be read."""
    found: list[StoreEntry] = []
    folder = store_folder()
    with suppress(OSError):
        names = [path.name for path in folder.iterdir() if _is_file(path)]
        for parts in gguf_models(folder, names).values():
            paths = tuple(folder / part for part in parts)
            with suppress(OSError):
                statuses = [path.stat() for path in paths]
                size, modified = sum(s.st_size for s in statuses), max(s.st_mtime for s in statuses)
                found.append(StoreEntry(parts[0], paths[0], size, modified, paths if len(paths) > 1 else ()))
    return sorted(found, key=lambda entry: entry.name.lower())


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def find(name: str) -> StoreEntry | None:
    """The entry with a file called `name`, with or without ".gguf", in any case; None if there is none."""
    wanted = name.lower()
    for entry in entries():
        if any(wanted in (path.name.lower(), path.stem.lower()) for path in (entry.path, *entry.parts)):
            return entry
    return None


def remove(name: str) -> StoreEntry:
    """Delete an entry and return it.

    Raises:
        ModelNotFoundError: the store has no such model.
        LlmcliError: the file system refuses.
    """
    entry = find(name)
    if entry is None:
        raise ModelNotFoundError(f"The model store has no {name!r}.")
    try:
        for path in entry.parts or (entry.path,):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise LlmcliError(f"Could not remove {entry.path}: {error.strerror}.") from error
    return entry


def install(temporary_file: Path, name: str) -> Path:
    """Move a finished file from a working folder to its final name, replacing an older one; returns the final path.

    Raises:
        LlmcliError: the file system refuses.
    """
    final = store_folder() / name
    try:
        # Sync the content before renaming: after a power cut an incomplete file would have the final name.
        with temporary_file.open("rb+") as file:
            os.fsync(file.fileno())
        temporary_file.replace(final)
    except OSError as error:
        raise LlmcliError(f"Could not write {final}: {error.strerror}.") from error
    return final


@contextmanager
def working_folder(on_wait: Callable[[], None]) -> Iterator[Path]:
    """A new folder on the store's file system, removed with its contents at the end.

    One process at a time gets it; `on_wait` is called once if another process has it. On a file system without locks
    several may get one each: the work is done twice, without damage.

    Raises:
        LlmcliError: the store cannot be written.
    """
    from tempfile import TemporaryDirectory

    from filelock import FileLock, Timeout

    partial = _partial_folder()
    lock = FileLock(partial / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        lock.acquire(poll_interval=0.2)
    except (OSError, NotImplementedError):
        pass
    try:
        if lock.is_locked:
            # Left by killed processes: a running one would hold the lock.
            for left in partial.iterdir():
                shutil.rmtree(left, ignore_errors=True)
        try:
            folder = TemporaryDirectory(dir=partial, ignore_cleanup_errors=True)
        except OSError as error:
            raise LlmcliError(f"Could not write into {partial}: {error.strerror}.") from error
        with folder as name:
            yield Path(name)
    finally:
        lock.release()


def _partial_folder() -> Path:
    folder = store_folder() / ".partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "it is not writable")
    except OSError as error:
        raise LlmcliError(
            f"The model store {store_folder()} cannot be used ({error.strerror}). "
            "Set XDG_DATA_HOME to a folder you can write to, or give a model by path with -m."
        ) from error
    return folder
