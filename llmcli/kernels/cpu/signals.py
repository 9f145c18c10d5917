"""Let C code notice signals: Python runs signal handlers only after the C call has returned."""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def alarm() -> Iterator[int]:
    """A file descriptor that becomes readable when a signal arrives that Python must handle.

    It is -1 outside the main thread, where Python handles no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield -1
        return
    read, write = _pipe()
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield read
    finally:
        # If an interruption came between the lines above, ours may still be set.
        others = -1 if before == write else before
        signal.set_wakeup_fd(others, warn_on_full_buffer=False)
        with suppress(OSError):
            came = os.read(read, 4096)
            if others >= 0:
                # Pass them on to an event loop in this thread.
                os.write(others, came)


@functools.cache
def _pipe() -> tuple[int, int]:
    """One pipe for the process. It stays open: else a signal might be written to another file with its number."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    return read, write
