"""KL divergence, entropy and perplexity of log-probabilities (nats), which may be -inf for tokens that are ruled out.

Dimension letter: V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def kl_divergence(first: Tensor, second: Tensor) -> Tensor:
    """KL(first || second) of log-probabilities (..., V): (...), in their dtype; infinite if only `second` has a -inf.

    A token that `first` rules out adds 0, although -inf times 0 is NaN.
    """
    terms = (first.exp() * (first - second)).masked_fill(first == -torch.inf, 0.0)
    # Rounding of the logarithms can make the sum slightly negative.
    return terms.sum(-1).clamp(min=0)


def entropy(logprobs: Tensor) -> Tensor:
    """Entropy of log-probabilities (..., V): (...), nats."""
    return -(logprobs.exp() * logprobs.masked_fill(logprobs == -torch.inf, 0.0)).sum(-1)


def perplexity(logprobs: Sequence[float]) -> float:
    """Perplexity, exp of the mean negative log-probability; infinite if that overflows a float."""
    mean = -math.fsum(logprobs) / len(logprobs)
    try:
        return math.exp(mean)
    except OverflowError:
        return math.inf


def change(before: float, after: float) -> float:
    """`after` minus `before`; 0 if both are -inf, whose difference would be NaN."""
    return 0.0 if before == after else after - before
