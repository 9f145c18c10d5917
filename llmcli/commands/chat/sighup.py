"""Handle a terminal that is closed during a chat (SIGHUP)."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def exit_on_hangup() -> Iterator[None]:
    """Raise `SystemExit` on SIGHUP inside the block, so that files are closed before the process ends.

    If the signal is ignored, as under nohup, it stays ignored.
    """
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is None or signal.getsignal(hangup) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(hangup, leave)
    try:
        yield
    finally:
        signal.signal(hangup, signal.SIG_DFL)
