"""Start reading weights from disk while the program is still starting."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_WEIGHTS = (".gguf", ".safetensors", ".bin", ".pth")


def read_ahead(model: Path) -> None:
    """Ask the system to read a model's weights into its file cache; returns at once and never fails.

    Importing torch takes a second or more, in which the disk would be idle.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    with contextlib.suppress(OSError):
        files = [file for file in model.iterdir() if file.suffix in _WEIGHTS] if model.is_dir() else [model]
        for file in sorted(files):
            # O_NONBLOCK: opening a pipe would wait for a writer.
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(descriptor)
