"""The estimated time left of work that reports its progress."""

from __future__ import annotations

from dataclasses import dataclass, replace

# Time in which something must have been done before the time left is estimated.
_LEAST_MEASURED_S = 0.2


def duration(seconds: float) -> str:
    """A duration in the unit that suits it: "50 s", "3 min", "2 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.0f} h"


@dataclass(frozen=True)
class Task:
    """What is being done; times are in seconds of one clock."""

    what: str
    total: int | None
    since: float
    """The time of its beginning."""
    first: tuple[float, int]
    """The time of its first report, and the amount that was done then."""
    last: tuple[float, int]
    """The same of the last report that more was done."""

    @property
    def done(self) -> int:
        """The amount done."""
        return self.last[1]


class WorkTimer:
    """Takes reports of tasks, one after another, and estimates the time left of the current one."""

    def __init__(self, now: float) -> None:
        self.task: Task | None = None
        self._free_since = now
        """The time when the last task ended, or of the beginning."""

    def report(self, what: str, done: int, total: int | None, now: float) -> None:
        """Take a report: of the current task, or of a new one.

        The label of a task may change while the same total is counted on, and its total may become known later.
        """
        task = self.task
        if task is None:
            self.task = Task(what, total, self._free_since, (now, done), (now, done))
        elif task.total is None and total is not None and not task.done:
            self.task = replace(task, what=what, total=total, first=(now, done), last=(now, done))
        elif what == task.what or (total == task.total and done >= task.done):
            self.task = replace(task, what=what, total=total, last=task.last if done == task.done else (now, done))
        else:
            self.task = Task(what, total, now, (now, done), (now, done))

    def end(self, now: float) -> None:
        """The current task has ended."""
        self.task, self._free_since = None, now

    def time(self, now: float) -> str:
        """The estimated time left of the current task, in words; while it is unknown, the time since its beginning."""
        task = self.task
        if task is None:
            return ""
        (start, before), (at, done) = task.first, task.last
        if start - task.since >= _LEAST_MEASURED_S:
            # What the first report counts was done in the time before it; otherwise it was done earlier.
            start, before = task.since, 0
        measured, more = at - start, done - before
        if task.total is None or more <= 0 or measured < _LEAST_MEASURED_S:
            return duration(now - task.since)
        if done >= task.total:
            return "nearly done"
        # A unit takes at least as long as the current one has been awaited.
        each = max(measured / more, (now - start) / (more + 1))
        left = each * (task.total - done) - min(now - at, each)
        return f"about {duration(max(left, 1))} left"
