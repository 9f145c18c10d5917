"""Ctrl-C while a reply is generated: the reply ends, the program does not."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """A request to end the current reply.

    While the engine computes, the request interrupts the computation at once, however long a pass takes. At any other
    moment it only sets `requested`, so that output is not cut in the middle. A second request before the first was
    handled raises a plain `KeyboardInterrupt`.
    """

    def __init__(self) -> None:
        self.requested = False
        self._computing = False

    def request(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """Ask the reply to end; has the form of a signal handler."""
        repeated, self.requested = self.requested, True
        if self._computing or repeated:
            raise KeyboardInterrupt

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Inside the block a request raises `KeyboardInterrupt`; so does one that came before it."""
        self._computing = True
        try:
            # It may have come just before a long prompt, which would otherwise be read to its end.
            if self.requested:
                raise KeyboardInterrupt
            yield
        finally:
            self._computing = False

    @contextmanager
    def catching_ctrl_c(self) -> Iterator[None]:
        """Let Ctrl-C make the request; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGINT, self.request)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)
