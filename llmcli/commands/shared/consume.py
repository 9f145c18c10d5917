"""Read the events of a reply to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmcli.engine import Event, Finish, Step


def follow(events: Iterable[Event], show: Callable[[Event], None] | None = None) -> tuple[list[Step], Finish]:
    """Pass each of `events` to `show` as it arrives; return the steps and the last event."""
    from llmcli.engine import Finish, Step

    steps: list[Step] = []
    for event in events:
        if isinstance(event, Step):
            steps.append(event)
        if show is not None:
            show(event)
    assert isinstance(event, Finish)
    return steps, event
