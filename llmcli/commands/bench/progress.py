"""Show the progress of a benchmark: a bar on a terminal, otherwise a line for each arm in each round."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llmcli.bench.run import Event, ProcessEnded, WorkStarted
from llmcli.views.terminal.progress import progress_bar
from llmcli.views.terminal.terminal import can_redraw, note


@contextmanager
def bench_progress(rounds: int, processes: int) -> Iterator[Callable[[Event], None]]:
    """Yield a function that shows an event, for a benchmark of `rounds` rounds and `processes` processes in all."""
    with progress_bar("Measuring", unit="") as report:
        if not can_redraw(sys.stderr):
            yield _Lines(rounds).show
            return
        what, done = "Measuring", 0

        def show(event: Event) -> None:
            nonlocal what, done
            if isinstance(event, WorkStarted):
                what = f"round {event.round}/{rounds} {_words(event)}"
            elif isinstance(event, ProcessEnded):
                done += 1
            report(what, done, processes)

        yield show


class _Lines:
    """Progress in a log: a line when an arm starts, without its separate measurements."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._last: tuple[int, str] | None = None

    def show(self, event: Event) -> None:
        if isinstance(event, WorkStarted) and (event.round, event.arm) != self._last:
            self._last = event.round, event.arm
            note(f"round {event.round} of {self._rounds}: {event.arm}")


def _words(event: WorkStarted) -> str:
    what = {"prefill": "reading", "decode": "writing after"}.get(event.what, event.what)
    return f"{event.arm}: {what}" + (f" {event.size} tokens" if event.size is not None else "")
