"""Compare the replies of two engines while one of them is disturbed."""

from __future__ import annotations

from llmcli.engine import Engine, Event, Finish, Interruption, Prefill, SamplingParams, Step
from tests.support.models.tiny import random_ids

GREEDY = SamplingParams(temperature=0, max_tokens=12)
PROMPT = random_ids(9)


def reply(engine: Engine, ids: list[int], params: SamplingParams) -> list[Event]:
    return list(engine.stream(ids, params, probabilities=False))


def outcome(events: list[Event]) -> tuple[object, ...]:
    """The parts of a reply that do not depend on time or machine."""
    finish = events[-1]
    assert isinstance(events[0], Prefill) and isinstance(finish, Finish)
    steps = [event for event in events if isinstance(event, Step)]
    stats = finish.stats
    counts = stats.prompt_tokens, stats.cached_tokens, stats.generated_tokens, stats.proposed_tokens
    return events[0].tokens, events[0].cached, steps, finish.reason, finish.text, counts


def check_interrupted(ours: Engine, theirs: Engine, *, said: int) -> None:
    """Press Ctrl-C during a decode step after that many tokens; the cache must stay valid."""
    interruption = Interruption()
    with interruption.catching_ctrl_c():
        events = list(ours.stream(PROMPT, GREEDY, probabilities=False, interruption=interruption))
    assert isinstance(events[-1], Finish) and events[-1].reason == "interrupted"
    ids = [*PROMPT, *(event.id for event in events if isinstance(event, Step))]
    assert len(ids) == len(PROMPT) + said
    again = reply(ours, ids, GREEDY)
    assert isinstance(again[0], Prefill) and again[0].cached == len(ids) - 1
    assert outcome(again)[2:4] == outcome(reply(theirs, ids, GREEDY))[2:4]


def check_abandoned(ours: Engine, theirs: Engine) -> None:
    """Abandon a reply, then continue with another text than was decoded ahead."""
    events = ours.stream(PROMPT, GREEDY, probabilities=False)
    said = [event.id for _, event in zip(range(6), events, strict=False) if isinstance(event, Step)]
    events.close()  # type: ignore[attr-defined]
    ids = [*PROMPT, *said, 7, 8]
    again = reply(ours, ids, GREEDY)
    assert isinstance(again[0], Prefill) and again[0].cached == len(PROMPT) + len(said)
    assert outcome(again)[2:4] == outcome(reply(theirs, ids, GREEDY))[2:4]


def check_closed_late(ours: Engine, theirs: Engine) -> None:
    """Close a reply while another, to a longer text, continues; its cache must not be dropped."""
    events, ids = ours.stream(PROMPT, GREEDY, probabilities=False), random_ids(450, seed=3)
    others = ours.stream(ids, GREEDY, probabilities=False)
    for _ in range(5):
        next(events)
    first = [next(others) for _ in range(4)]
    events.close()  # type: ignore[attr-defined]
    our_outcome = outcome([*first, *others])
    assert our_outcome == outcome(reply(theirs, ids, GREEDY))
