"""Handle a terminal that is closed during a chat."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def leaving_at_hangup() -> Iterator[None]:
    """Leave by way of all that is to be put in order when the terminal goes away, instead of at once.

    Where the signal is ignored, as under nohup, it stays so.
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
