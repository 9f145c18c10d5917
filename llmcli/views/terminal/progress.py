"""Progress bars on stderr for slow work; at most one note where stderr is not a terminal."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeAlias

from llmcli.views.terminal.mode import around_stops, without_echo
from llmcli.views.terminal.sanitize import visible
from llmcli.views.terminal.terminal import can_redraw, console_err, is_quiet, is_terminal, note
from llmcli.views.terminal.time_left import WorkTimer, duration

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID

Report: TypeAlias = Callable[[str, int, int | None], None]
# Work shorter than this shows no bar, to avoid flicker; longer work must show one within its first second.
_DELAY_S = 0.5
# After this time, note the estimated time left, if it is at least `_WORTH_A_NOTE_S`.
_ESTIMATE_AFTER_S, _WORTH_A_NOTE_S = 1.0, 3.0
_BAR_COLUMNS, _UPDATES_PER_S = 16, 4
_ERASE, _HIDE_CURSOR = b"\r\x1b[2K\x1b[?25h", b"\x1b[?25l"


@contextmanager
def progress_bar(
    what: str | None = None, *, unit: str = "bytes", estimate: bool = False, delay_s: float = _DELAY_S
) -> Iterator[Report]:
    """Yield a function that reports progress: (label, amount done, total or None), in bytes or another `unit`.

    The bar appears after `delay_s` seconds, with the time left as soon as it can be estimated. If the whole block is
    one piece of work, `what` is its first label: the bar does not wait for a report and stays until the block ends.
    Otherwise each task in the block has its bar, from its first report until all of it is done.

    If stderr is not a terminal, no bar is shown; with `estimate`, one note gives the time left after a second. With
    --quiet nothing is shown. What is typed during the block is not shown on the terminal either way.
    """
    with without_echo():
        if is_quiet() or not can_redraw(sys.stderr):
            yield _Estimate(unit).report if estimate else lambda what, done, total: None
            return
        bar = _Bar(unit, delay_s, stays=what is not None)
        with around_stops(bar.before_stop, bar.after_stop):
            try:
                if what is not None:
                    bar.report(what, 0, None)
                yield bar.report
            finally:
                bar.end()


def prefill_progress(report: Report) -> Callable[[int, int], None]:
    """Report how much of a prompt has been read: (tokens in the cache, tokens of the prompt), first at the beginning.

    What the cache has at the beginning is left out: an estimate would take it for work of no time.
    """
    before: int | None = None

    def report_read(done: int, total: int) -> None:
        nonlocal before
        before = done if before is None else min(before, done)
        report("Reading the prompt", done - before, total - before)
        if done >= total:
            before = None

    return report_read


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
            note(f"{visible(what)}: about {duration(left)} left ({done} of {total} {self._unit} done).")


class _Bar:
    """A bar that a thread shows after a delay and redraws, however long the work takes between two reports."""

    def __init__(self, unit: str, delay_s: float, *, stays: bool) -> None:
        """`stays`: until `end`; otherwise it vanishes when a task is done."""
        # Not in the timer's thread, where each file access would wait milliseconds for the interpreter lock.
        import rich.progress  # noqa: F401

        self._unit, self._delay_s, self._stays = unit, delay_s, stays
        # Nor there, because the descriptor of stderr may lead elsewhere just then: see `wrap_tokenizer_errors`.
        self._console = console_err()
        self._lock = threading.RLock()
        self._work = WorkTimer(time.monotonic())
        self._timer: threading.Timer | None = None
        self._shown: tuple[Progress, TaskID] | None = None

    def report(self, what: str, done: int, total: int | None) -> None:
        """Take a report of the work."""
        with self._lock:
            self._work.report(what, done, total, time.monotonic())
            if total is not None and done >= total and not self._stays:
                self.end()
            elif self._shown is not None:
                progress, task = self._shown
                progress.update(task, description=visible(what), completed=done, total=total)
            elif self._timer is None:
                self._timer = threading.Timer(self._delay_s, self._show)
                self._timer.daemon = True
                self._timer.start()

    def end(self) -> None:
        """Remove the bar."""
        with self._lock:
            self._work.end(time.monotonic())
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._shown is not None:
                progress, _ = self._shown
                self._shown = None
                try:
                    progress.stop()
                except BaseException:
                    # A second Ctrl-C; without this the cursor would stay hidden.
                    self._send(_ERASE)
                    raise

    def before_stop(self) -> None:
        """Remove the bar from the screen before Ctrl-Z stops the process."""
        if self._shown is not None:
            self._send(_ERASE)

    def after_stop(self) -> None:
        """Let the bar be drawn again when the process continues."""
        if self._shown is not None:
            self._send(_HIDE_CURSOR)

    def _send(self, codes: bytes) -> None:
        """Write to the terminal, but not through its stream: the interrupted code may be writing to that."""
        with suppress(OSError, ValueError):
            os.write(self._console.file.fileno(), codes)

    def _show(self) -> None:
        """Show the bar, in the timer's thread."""
        timer = threading.current_thread()
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(_BAR_COLUMNS), *self._amount_and_time())
        progress = Progress(
            *columns,
            console=self._console,
            transient=True,
            refresh_per_second=_UPDATES_PER_S,
            # What is written to a pipe or file meanwhile must not be shown above the bar instead.
            redirect_stdout=is_terminal(sys.stdout),
        )
        with self._lock:
            # The work may have ended meanwhile, and other work begun.
            task = self._work.task
            if task is None or self._timer is not timer:
                return
            shown = progress.add_task(visible(task.what), completed=task.done, total=task.total)
            self._shown = progress, shown
            progress.start()

    def _amount_and_time(self) -> tuple[ProgressColumn, ...]:
        """The columns with the amount done, with the speed for bytes, and the time."""
        from rich.progress import DownloadColumn, ProgressColumn, Task, TransferSpeedColumn
        from rich.text import Text

        work, unit = self._work, self._unit
        in_bytes, per_s = DownloadColumn(), TransferSpeedColumn()

        class Amount(ProgressColumn):
            def render(self, task: Task) -> Text:
                if unit == "bytes" and (task.completed or task.total is not None):
                    return (
                        in_bytes.render(task) + Text(" ") + per_s.render(task) if task.speed else in_bytes.render(task)
                    )
                if task.total is not None:
                    return Text(f"{task.completed:,.0f}/{task.total:,.0f} {unit}".rstrip())
                return Text(f"{task.completed:,.0f} {unit}".rstrip() if task.completed else "")

        class Time(ProgressColumn):
            def render(self, task: Task) -> Text:
                return Text(work.time(time.monotonic()))

        return Amount(), Time()
