"""The mode of the terminal during work: what is typed meanwhile is not shown in the output, and not lost."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from llmcli.views.terminal.terminal import is_terminal

_around_stops: list[tuple[Callable[[], None], Callable[[], None]]] = []


@contextmanager
def without_echo() -> Iterator[None]:
    """Inside the block, the terminal that output goes to does not show what is typed; the next reader gets it.

    Does nothing without a terminal, in the background, or where typed text is not shown anyway.
    """
    import termios

    descriptor = _output_terminal()
    if descriptor is None or not termios.tcgetattr(descriptor)[3] & termios.ECHO:
        yield
        return

    def hide(mode: list[Any]) -> None:
        mode[3] &= ~termios.ECHO

    with changed_mode(descriptor, hide):
        yield


@contextmanager
def changed_mode(descriptor: int, change: Callable[[list[Any]], None]) -> Iterator[None]:
    """Change the settings of a terminal, as of `termios.tcgetattr`, inside the block.

    While Ctrl-Z has stopped the process, they are as before.
    """
    import termios

    before = termios.tcgetattr(descriptor)
    changed = [*before[:6], list(before[6])]
    change(changed)

    def set_to(mode: list[Any]) -> None:
        # From the background, the attempt would stop the process. The terminal may have been closed.
        with suppress(termios.error, OSError):
            if in_foreground(descriptor):
                termios.tcsetattr(descriptor, termios.TCSANOW, mode)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        for before_stop, _ in _around_stops:
            before_stop()
        set_to(before)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        # To this thread, so that the process stops here and not a little later.
        signal.pthread_kill(threading.get_ident(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, stop)
        set_to(changed)
        for _, after_stop in _around_stops:
            after_stop()

    # A shell without job control lets programs ignore the signal, and only the main thread can handle it.
    stops = threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL
    )
    try:
        if stops:
            signal.signal(signal.SIGTSTP, stop)
        set_to(changed)
        yield
    finally:
        set_to(before)
        if stops:
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)


@contextmanager
def around_stops(before_stop: Callable[[], None], after_stop: Callable[[], None]) -> Iterator[None]:
    """Call these when Ctrl-Z stops the process and when it continues, in a block whose terminal mode is changed."""
    calls = before_stop, after_stop
    _around_stops.append(calls)
    try:
        yield
    finally:
        _around_stops.remove(calls)


def in_foreground(descriptor: int) -> bool:
    """Whether this process may change the terminal without being stopped: it is not in the background there."""
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError as error:
        # A terminal that does not control this process does not stop it either.
        return error.errno == errno.ENOTTY


def _output_terminal() -> int | None:
    """The descriptor of the terminal that output goes to, if this process may change it."""
    for stream in (sys.stderr, sys.stdout):
        if stream is not None and is_terminal(stream):
            with suppress(OSError, ValueError):
                if in_foreground(stream.fileno()):
                    return stream.fileno()
    return None
