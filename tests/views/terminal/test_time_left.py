from __future__ import annotations

import pytest

from llmcli.views.terminal.time_left import WorkTimer


@pytest.mark.parametrize(
    ("reports", "shown"),
    [
        # Nothing is known at first: the time since the beginning.
        ([(0.0, "a", 0, None), (3.0, "a", 0, 100)], "3 s"),
        # The first report counts if time has passed before it.
        ([(0.0, "a", 0, None), (3.0, "a", 30, 100)], "about 7 s left"),
        ([(0.0, "a", 0, None), (3.0, "a", 1, 100), (3.1, "a", 30, 100)], "about 7 s left"),
        # If none has passed, only what was done between reports, as in work that is resumed.
        ([(0.0, "a", 50, 100), (2.0, "a", 60, 100)], "about 8 s left"),
        ([(0.0, "a", 0, 100), (2.0, "b", 50, 100)], "about 2 s left"),
        ([(0.0, "a", 0, 100), (2.0, "a", 50, 100), (9.0, "b", 0, 30), (10.0, "b", 10, 30)], "about 2 s left"),
        ([(0.0, "a", 0, 100), (300.0, "a", 50, 100)], "about 5 min left"),
        ([(0.0, "a", 0, 100), (2.0, "a", 100, 100)], "nearly done"),
    ],
)
def test_the_time_left_follows_from_the_reports(reports: list[tuple[float, str, int, int | None]], shown: str) -> None:
    timer = WorkTimer(100.0)
    for after, what, done, total in reports:
        timer.report(what, done, total, 100 + after)
    assert timer.time(100 + reports[-1][0]) == shown
    timer.end(200.0)
    assert timer.time(201.0) == ""


def test_the_estimate_runs_down_between_reports_and_rises_when_the_work_slows() -> None:
    timer = WorkTimer(0.0)
    timer.report("a", 0, 10, 0.0)
    timer.report("a", 1, 10, 2.0)
    assert [timer.time(now) for now in (2.0, 3.0, 4.0, 8.0)] == [f"about {left} s left" for left in (18, 17, 16, 32)]


def test_a_task_after_another_is_timed_from_its_end() -> None:
    timer = WorkTimer(0.0)
    timer.report("a", 1, 2, 5.0)
    timer.end(10.0)
    timer.report("b", 1, 3, 14.0)
    assert timer.time(14.0) == "about 8 s left"
