"""Replies as their JSON, for pages: a small one with alternatives and attention, and ones of any length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from llmcli.engine.events import AttentionRow, Finish, Read, SampledCandidate, Stats, Step
from llmcli.views.reply.reply_json import reply_json

PROMPT_TOKENS = 5
FIRST_OTHER = 100_000
"""The ids of alternatives."""


def reply_of(texts: Sequence[str], *, top: int = 3, prompt: str = "Where is it?") -> dict[str, Any]:
    """A reply of these texts: probability 1 / (index + 2), `top` alternatives of which top-k leaves two, attention."""
    steps = [_step(index, text, top) for index, text in enumerate(texts)]
    stats = Stats(PROMPT_TOKENS, 0, len(steps), 0.1, 10.0, 20.0, 1 << 20, "readable model")
    return reply_json(
        model="tiny",
        prompt=prompt,
        prefill="",
        seed=7,
        steps=steps,
        finish=Finish("stop", stats),
        token_bytes=lambda token: (texts[token] if token < FIRST_OTHER else f"other{token - FIRST_OTHER}").encode(
            "utf-8", "surrogatepass"
        ),
    )


def _step(index: int, text: str, top: int) -> Step:
    probability = 1 / (index + 2)
    candidates = [
        SampledCandidate(
            index if at == 0 else FIRST_OTHER + at, text if at == 0 else f"other{at}", math.log(share), after, gone
        )
        for at, (share, after, gone) in enumerate(_shares(probability, top))
    ]
    position = PROMPT_TOKENS + index - 1
    read = (Read(2, " place", 0.5), *((Read(PROMPT_TOKENS, "first", 0.25),) if index > 1 else ()))
    attention = AttentionRow(position, 0.4, 0.1, read)
    return Step(
        index, index, text, math.log(probability), 1.5 * math.log(2), 1, 0.75, tuple(candidates), attention, "model"
    )


def _shares(probability: float, top: int) -> list[tuple[float, float, Any]]:
    return [(probability / (1 + at), 0.75 if at == 0 else 0.25, None) if at < 2 else
            (probability / (1 + at), 0.0, "top_k") for at in range(top)]  # fmt: skip
