"""Show the progress of a benchmark: a bar on a terminal, otherwise a line for each arm in each round."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llmcli.bench.run import Event, ProcessEnded, WorkStarted
from llmcli.views.terminal.terminal import can_redraw, console_err, is_quiet, note


@contextmanager
def bench_progress(rounds: int, processes: int) -> Iterator[Callable[[Event], None]]:
    """Yield a function that shows an event, for a benchmark of `rounds` rounds and `processes` processes in all."""
    if is_quiet():
        yield lambda event: None
    elif can_redraw(sys.stderr):
        with _bar(rounds, processes) as show:
            yield show
    else:
        yield _Lines(rounds).show


class _Lines:
    """Progress in a log: a line when an arm starts, without its separate measurements."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._last: tuple[int, str] | None = None

    def show(self, event: Event) -> None:
        if isinstance(event, WorkStarted) and (event.round, event.arm) != self._last:
            self._last = event.round, event.arm
            note(f"round {event.round} of {self._rounds}: {event.arm}")


@contextmanager
def _bar(rounds: int, processes: int) -> Iterator[Callable[[Event], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn())
    text = TextColumn("{task.description}", markup=False)
    with Progress(*columns, text, console=console_err(), transient=True) as progress:
        task = progress.add_task("", total=processes)

        def show(event: Event) -> None:
            if isinstance(event, WorkStarted):
                progress.update(task, description=f"round {event.round} of {rounds}, {_words(event)}")
            elif isinstance(event, ProcessEnded):
                progress.advance(task)

        yield show


def _words(event: WorkStarted) -> str:
    what = {"prefill": "reading", "decode": "writing after"}.get(event.what, event.what)
    return f"{event.arm}: {what}" + (f" {event.size} tokens" if event.size is not None else "")
