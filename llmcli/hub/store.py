"""The model store: one folder in the platform's data directory, one file per model, or the parts of a split one.

A file gets its final name only when it is whole: it is written inside a working folder below `.partial`, synced, and
renamed. The process that has one holds a lock; what a killed process left behind is removed by the next.
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
"""Told what is going on, how many bytes are done, and of how many (None: not known)."""


@dataclass(frozen=True)
class StoreEntry:
    """One model of the store."""

    name: str
    """Of its (first) file."""
    path: Path
    bytes: int
    modified: float
    """Seconds since the epoch."""
    parts: tuple[Path, ...] = ()
    """All files, if there are several."""


def no_progress(what: str, done: int, total: int | None) -> None:
    """A `Progress` for callers who do not want to hear anything."""


def store_folder() -> Path:
    """Where the store is (it need not exist yet); `XDG_DATA_HOME` and its relatives apply."""
    return data_folder() / "models"


def entries() -> list[StoreEntry]:
    """The whole models of the store, by name. A store that does not exist or cannot be read is empty."""
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
    """The entry of which a file's name, or its name without ".gguf", is `name` in any case."""
    wanted = name.lower()
    for entry in entries():
        if any(wanted in (path.name.lower(), path.stem.lower()) for path in (entry.path, *entry.parts)):
            return entry
    return None


def remove(name: str) -> StoreEntry:
    """Delete one entry and return what it was.

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
    """Give a finished file of a working folder its final name, replacing an older one; returns the final path.

    Raises:
        LlmcliError: the file system refuses.
    """
    final = store_folder() / name
    try:
        # Its bytes reach the disk before its name does: after a power cut the name would pass for a whole file.
        with temporary_file.open("rb+") as file:
            os.fsync(file.fileno())
        temporary_file.replace(final)
    except OSError as error:
        raise LlmcliError(f"Could not write {final}: {error.strerror}.") from error
    return final


@contextmanager
def working_folder(on_wait: Callable[[], None]) -> Iterator[Path]:
    """A fresh folder on the store's file system, removed with all its contents at the end.

    One process at a time has one; `on_wait` is called once if another does. On a file system without locks several
    may: each gets another folder, so the work is done twice, and still well.

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
            # Left by processes that were killed: a living one would hold the lock.
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
