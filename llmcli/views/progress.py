"""Progress on stderr for whatever takes longer than a moment; nothing at all where stderr is not a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from llmcli.views.terminal import can_redraw, console_err, visible

Report: TypeAlias = Callable[[str, int, int | None], None]
# What is over before anyone wonders should not flicker.
_PATIENCE_S = 0.5


@contextmanager
def progress_bar(*, enabled: bool = True, unit: str = "bytes") -> Iterator[Report]:
    """A function to tell (what, done, in all or None), in bytes or another `unit`.

    The bar appears if the work is not over after half a second, and vanishes when it is, or at the end of the block.
    """
    if not enabled or not can_redraw(sys.stderr):
        yield lambda what, done, total: None
        return
    bar = _Bar(unit)
    try:
        yield bar.report
    finally:
        bar.stop()


class _Bar:
    def __init__(self, unit: str) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        amount = (
            (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(), TextColumn(unit))
        )
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            *amount,
            TimeRemainingColumn(),
            console=console_err(),
            transient=True,
        )
        self._task = self._progress.add_task("", start=False, visible=False)
        self._what: str | None = None
        self._since = 0.0

    def report(self, what: str, done: int, total: int | None) -> None:
        if what != self._what:
            self._what, self._since = what, time.monotonic()
            self._progress.reset(self._task, description=visible(what), total=total, visible=True)
        self._progress.update(self._task, completed=done, total=total)
        if done == total:
            self.stop()
        elif time.monotonic() - self._since >= _PATIENCE_S:
            self._progress.start()

    def stop(self) -> None:
        self._progress.stop()
        self._what = None
