"""Progress bars on stderr for slow work; at most one note where stderr is not a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from llmcli.sizes import size
from llmcli.views.terminal.sanitize import visible
from llmcli.views.terminal.terminal import can_redraw, console_err, is_quiet, note

Report: TypeAlias = Callable[[str, int, int | None], None]
# Work shorter than this shows no bar, to avoid flicker.
_DELAY_S = 0.5
# After this time, note the estimated time left, if it is at least `_WORTH_A_NOTE_S`.
_ESTIMATE_AFTER_S, _WORTH_A_NOTE_S = 1.0, 3.0


@contextmanager
def progress_bar(*, unit: str = "bytes", estimate: bool = False, delay_s: float = _DELAY_S) -> Iterator[Report]:
    """Yield a function that reports progress: (label, amount done, total or None), in bytes or another `unit`.

    The bar appears if the work takes longer than `delay_s` seconds, and vanishes when it is done or the block ends.
    If stderr is not a terminal, no bar is shown; with `estimate`, one note gives the time left after a second. With
    --quiet nothing is shown.
    """
    if is_quiet() or not can_redraw(sys.stderr):
        yield _Estimate(unit).report if estimate else lambda what, done, total: None
        return
    bar = _Bar(unit, delay_s)
    try:
        yield bar.report
    finally:
        bar.stop()


class _Estimate:
    """Prints one note of the estimated time left for each task that takes long."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._what: str | None = None
        self._since = time.monotonic()
        self._noted = False

    def report(self, what: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if what != self._what:
            # The first task is timed from the start of the block, before its first report.
            self._since = self._since if self._what is None else now
            self._what, self._noted = what, False
        if self._noted or not total or not done or now - self._since < _ESTIMATE_AFTER_S:
            return
        self._noted = True
        left = (now - self._since) * (total - done) / done
        if left >= _WORTH_A_NOTE_S:
            note(f"{visible(what)}: about {_duration(left)} left ({self._done_of(done, total)} done).")

    def _done_of(self, done: int, total: int) -> str:
        return f"{size(done)} of {size(total)}" if self._unit == "bytes" else f"{done} of {total} {self._unit}"


def _duration(seconds: float) -> str:
    """A duration in the unit that suits it: "50 s", "3 min", "2 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.0f} h"


class _Bar:
    def __init__(self, unit: str, delay_s: float) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        amount = (TextColumn("{task.fields[bytes]}"),) if unit == "bytes" else (MofNCompleteColumn(), TextColumn(unit))
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            *amount,
            TimeRemainingColumn(),
            console=console_err(),
            transient=True,
        )
        self._task = self._progress.add_task("", start=False, visible=False, bytes="")
        self._is_bytes = unit == "bytes"
        self._what: str | None = None
        self._since = 0.0
        self._delay_s = delay_s

    def report(self, what: str, done: int, total: int | None) -> None:
        if what != self._what:
            self._what, self._since = what, time.monotonic()
            self._progress.reset(self._task, description=visible(what), total=total, visible=True)
        self._progress.update(self._task, completed=done, total=total)
        if self._is_bytes:
            self._progress.update(self._task, bytes=self._bytes(done, total))
        if done == total:
            self.stop()
        elif time.monotonic() - self._since >= self._delay_s:
            self._progress.start()

    def _bytes(self, done: int, total: int | None) -> str:
        """The bytes that are done, of all, and per second over the last seconds."""
        speed = self._progress.tasks[0].speed
        of = f"/{size(total)}" if total is not None else ""
        return f"{size(done)}{of}" + (f" {size(speed)}/s" if speed else "")

    def stop(self) -> None:
        self._progress.stop()
        self._what = None
