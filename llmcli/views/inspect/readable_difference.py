"""A note where the readable model's probability of a token differs from the one in the reply.

A reply's probabilities come from the decode path that generated it. Attention and other internals come from the
readable model, which computes the same function in another order and precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmcli.views.widgets.token_table import percent, token_label

# Differences of probability up to this are rounding.
_NOTED_FROM = 0.01


@dataclass(frozen=True)
class TokenProbabilities:
    """The probability of one token of a reply, from the decode path and from the readable model."""

    index: int
    """Its number in the reply."""
    data: bytes
    """Its bytes."""
    reply: float
    """From the path that generated the reply."""
    readable: float
    """From the readable model."""

    @property
    def difference(self) -> float:
        """Absolute difference of the probabilities, 0 to 1."""
        return abs(self.reply - self.readable)


def difference_note(tokens: Sequence[TokenProbabilities]) -> str | None:
    """A note on the token that differs most; None if none differs by more than 1 % of probability."""
    apart = [token for token in tokens if token.difference > _NOTED_FROM]
    if not apart:
        return None
    most = max(apart, key=lambda token: token.difference)
    of = f"most for token {most.index}" if len(apart) > 1 else f"for token {most.index}"
    count = f" ({len(apart)} of {len(tokens)} tokens)" if len(tokens) > 1 else ""
    return (
        "These internals come from the readable model; its probabilities differ from the reply's by more than 1 %"
        f"{count}, {of} {token_label(most.data)}: {percent(most.readable)}, in the reply {percent(most.reply)}."
    )
