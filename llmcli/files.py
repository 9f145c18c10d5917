"""Atomic writing of small files, SHA-256 of files, and moving damaged files aside."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

_HASHED_AT_ONCE = 1 << 20


def replace_text(path: Path, text: str) -> None:
    """Replace the file `path` atomically by a UTF-8 text: other processes read the old file or the new one.

    A symbolic link is kept and its target replaced; a device is written to. Missing folders are created.

    Raises:
        OSError: the file cannot be written; the old one is unchanged.
    """
    replace_bytes(path, text.encode("utf-8"))


def replace_bytes(path: Path, data: bytes) -> None:
    """`replace_text` for bytes."""
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        # Renaming a file over a device such as /dev/null would remove the device for every program.
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_native_id()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256_of(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """The SHA-256 of a file, in hexadecimal; `progress` is called with the bytes hashed so far.

    Raises:
        OSError: the file cannot be read.
    """
    import hashlib  # most commands hash nothing, and the import loads a library

    digest, done = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_HASHED_AT_ONCE):
            digest.update(piece)
            done += len(piece)
            if progress is not None:
                progress(done)
    return digest.hexdigest()


def set_aside(path: Path) -> Path:
    """Rename a damaged file to an unused name beside it, `STEM.damaged-N`, and return that path.

    Raises:
        OSError: the folder cannot be written.
    """
    aside, descriptor = create_damaged_file(path)
    os.close(descriptor)
    path.replace(aside)
    return aside


def create_damaged_file(path: Path) -> tuple[Path, int]:
    """Create an empty file `STEM.damaged-N` beside `path`, and return its path and its open descriptor.

    Created exclusively, so that two processes never set files aside under one name.

    Raises:
        OSError: the folder cannot be written.
    """
    number = 1
    while True:
        aside = path.with_name(f"{path.stem}.damaged-{number}")
        try:
            return aside, os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            number += 1
