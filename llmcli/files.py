"""Files: small ones that are written whole or not at all, and the SHA-256 of any."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

_HASHED_AT_ONCE = 1 << 20


def replace_text(path: Path, text: str) -> None:
    """Put a file of UTF-8 in the place of `path`: whoever reads it meanwhile finds the old one or the new one.

    A link stays one, and its target is replaced; what is no file, such as a device, is written to. Folders that are
    lacking are made. `OSError` where it cannot be written; then the old one stays.
    """
    replace_bytes(path, text.encode("utf-8"))


def replace_bytes(path: Path, data: bytes) -> None:
    """`replace_text` for any file."""
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        # A device with another name in its place would be lost to the whole machine.
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
    import hashlib  # most commands hash nothing, and it loads a library

    digest, done = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_HASHED_AT_ONCE):
            digest.update(piece)
            done += len(piece)
            if progress is not None:
                progress(done)
    return digest.hexdigest()


def set_aside(path: Path) -> Path:
    """Give a file that is not to be lost a name beside its own that no other has, and return that.

    Raises:
        OSError: the folder cannot be written.
    """
    aside, descriptor = new_beside(path)
    os.close(descriptor)
    path.replace(aside)
    return aside


def new_beside(path: Path) -> tuple[Path, int]:
    """An empty file for what is damaged in `path`, under a name that no other has, and its descriptor.

    Of two processes neither loses what the other has set aside: each has a file of its own from the first.

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
