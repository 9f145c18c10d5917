"""Signals that come while C code runs: Python answers them only when that code returns."""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def alarm() -> Iterator[int]:
    """A file descriptor that can be read once a signal has come which Python is to handle.

    It is -1 where none would have to be answered: in a thread that is not the main one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield -1
        return
    read, write = _pipe()
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield read
    finally:
        # What broke in between two lines above may have left ours there.
        others = -1 if before == write else before
        signal.set_wakeup_fd(others, warn_on_full_buffer=False)
        with suppress(OSError):
            came = os.read(read, 4096)
            if others >= 0:
                # Of an event loop in this thread, which must hear of them, too.
                os.write(others, came)


@functools.cache
def _pipe() -> tuple[int, int]:
    """One for the process, as signals are. It stays open: a signal would be written to whatever has its number next."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    return read, write
