"""Where the readable model gives a token another probability than the reply had: a note that says by how much.

A reply's probabilities come from the path that wrote it. What is seen of its inside comes from the readable model,
which computes the same in another order and precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmcli.views.widgets.token_table import percent, token_label

# A difference of probability up to this one is rounding.
_TOLD_FROM = 0.01


@dataclass(frozen=True)
class TokenProbabilities:
    """The probability of one token of a reply, from both."""

    index: int
    """Its number in the reply."""
    data: bytes
    """The bytes it stands for."""
    reply: float
    """From the path that wrote the reply."""
    readable: float
    """From the readable model."""

    @property
    def difference(self) -> float:
        """0 to 1."""
        return abs(self.reply - self.readable)


def difference_note(tokens: Sequence[TokenProbabilities]) -> str | None:
    """Which of `tokens` differs most; None if none differs by more than 1 % of probability."""
    apart = [token for token in tokens if token.difference > _TOLD_FROM]
    if not apart:
        return None
    most = max(apart, key=lambda token: token.difference)
    of = f"most for token {most.index}" if len(apart) > 1 else f"for token {most.index}"
    count = f" ({len(apart)} of {len(tokens)} tokens)" if len(tokens) > 1 else ""
    return (
        "The inside is read on the readable model, which gives other probabilities by more than 1 %"
        f"{count}, {of} {token_label(most.data)}: {percent(most.readable)}, in the reply {percent(most.reply)}."
    )
