"""Ctrl-C while a reply is generated: the reply ends, the program does not."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """A request to end the current reply.

    While the engine computes, the request breaks into the computation at once, however long a single pass takes. At
    any other moment it only sets `requested`, so that nothing is torn apart half-printed. A second request before the
    first was answered is a plain `KeyboardInterrupt`.
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
        """The stretch of code that a request may break into, if it has not come before."""
        self._computing = True
        try:
            # It may have come just before a long prompt, which would be read to its end.
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
