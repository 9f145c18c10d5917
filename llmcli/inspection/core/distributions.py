"""What is computed of log-probabilities (nats) in which a token may be ruled out: its log-probability is -inf.

Dimension letter: V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def kl_divergence(first: Tensor, second: Tensor) -> Tensor:
    """KL(first || second) of log-probabilities (..., V): (...), in their type; infinite where only `second` rules out.

    A token that `first` rules out adds nothing, though -inf times 0 is NaN.
    """
    terms = (first.exp() * (first - second)).masked_fill(first == -torch.inf, 0.0)
    # The difference of two rounded logarithms may fall below zero by as much as they are rounded.
    return terms.sum(-1).clamp(min=0)


def entropy(logprobs: Tensor) -> Tensor:
    """Entropy of log-probabilities (..., V): (...), nats."""
    return -(logprobs.exp() * logprobs.masked_fill(logprobs == -torch.inf, 0.0)).sum(-1)


def perplexity(logprobs: Sequence[float]) -> float:
    """Exp of the mean surprise of tokens with such log-probabilities; infinite where that is too great for a float."""
    mean = -math.fsum(logprobs) / len(logprobs)
    try:
        return math.exp(mean)
    except OverflowError:
        return math.inf


def change(before: float, after: float) -> float:
    """`after` less `before`: 0 where both are -inf, whose difference would be NaN."""
    return 0.0 if before == after else after - before
