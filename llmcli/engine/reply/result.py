"""A whole reply, collected from its events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llmcli.engine.events import Event, Finish, FinishReason, Stats, Step


@dataclass(frozen=True)
class Reply:
    """The answer to one prompt. `str(reply)` is its text."""

    text: str
    """The answer, without the thought before it."""
    thinking: str
    """The thought, if the model marks its thoughts; empty otherwise."""
    tokens: tuple[Step, ...]
    """Every generated token, with probabilities if they were asked for."""
    finish_reason: FinishReason
    stats: Stats
    seed: int | None
    """The seed of the draws: the same settings with this seed give the same reply."""

    def __str__(self) -> str:
        return self.text


def collect(events: Iterable[Event], *, seed: int | None) -> Reply:
    """Read `events`, those of one reply, to their end and return the reply."""
    steps: list[Step] = []
    finish: Finish | None = None
    for event in events:
        if isinstance(event, Step):
            steps.append(event)
        elif isinstance(event, Finish):
            finish = event
    assert finish is not None, "every reply ends with a Finish"
    parts: tuple[Step | Finish, ...] = (*steps, finish)
    return Reply(
        text="".join(part.text for part in parts),
        thinking="".join(part.thinking for part in parts),
        tokens=tuple(steps),
        finish_reason=finish.reason,
        stats=finish.stats,
        seed=seed,
    )
