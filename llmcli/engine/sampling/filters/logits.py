"""Filters that change logits (V,) before they become probabilities. V is the vocabulary."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from llmcli.errors import LlmcliError

# The least temperature that dynamic temperature gives: the most probable token takes all but nothing.
_LEAST_TEMPERATURE = 1e-3


def biased(logits: Tensor, bias: Sequence[tuple[int, float]]) -> Tensor:
    """Add to the logit of each token (id, number); -inf rules it out. Ids beyond the vocabulary are passed over.

    Raises:
        LlmcliError: no token that could come is left.
    """
    added = torch.zeros_like(logits)
    for token, value in bias:
        if token < len(logits):
            added[token] += value
    result = logits + added
    if bool(torch.isneginf(result).all()):
        raise LlmcliError("The logit bias rules out every token that could come next; allow more of them.")
    return result


def last(context: Sequence[int], count: int) -> Sequence[int]:
    """The last `count` tokens; -1 is all."""
    return context if count < 0 else context[max(0, len(context) - count) :]


def penalized(
    logits: Tensor, context: Sequence[int], *, repeat: float = 1.0, frequency: float = 0.0, presence: float = 0.0
) -> Tensor:
    """Make the tokens of `context` less probable, as `penalties` of llama.cpp does.

    `repeat` divides their logits, and multiplies negative ones (Keskar et al. 2019, arXiv:1909.05858, section 4.1).
    Then `frequency` times the number of occurrences and, once, `presence` are subtracted, as in OpenAI's interface.
    """
    if not context:
        return logits
    counts = Counter(context)
    ids = sorted(counts)
    seen = torch.tensor(ids, device=logits.device)
    scores = logits[seen]
    if repeat != 1:
        scores = torch.where(scores < 0, scores * repeat, scores / repeat)
    if frequency or presence:
        subtracted = [frequency * counts[token] + presence for token in ids]
        scores = scores - torch.tensor(subtracted, dtype=logits.dtype, device=logits.device)
    return logits.index_put((seen,), scores)


def within_sigma(logits: Tensor, n: float) -> Tensor:
    """-inf for every logit more than `n` standard deviations below the greatest (top-n-sigma, Tang et al. 2024,
    arXiv:2411.07641).

    The deviation is that of all logits that are not -inf, as in llama.cpp. What is kept does not depend on the
    temperature.
    """
    possible = logits[logits > -torch.inf].double()
    if len(possible) < 2:
        return logits
    least = float(possible.max()) - n * float(possible.std(correction=0))
    return logits.masked_fill(logits < least, -torch.inf)


def dynamic_temperature(logits: Tensor, temperature: float, spread: float, exponent: float, top_k: int) -> float:
    """From `temperature - spread` where the model is sure to `temperature + spread` where all tokens are alike.

    In between, it is where the entropy of the distribution, as a share of the greatest there could be, stands to the
    power of `exponent`: `temp_ext` of llama.cpp. Entropy is that of the `top_k` tokens, 0: of all, that are possible.
    """
    # At temperature 1 whatever the settings are; float64, as there may be hundreds of thousands.
    best = (logits.topk(min(top_k, len(logits))).values if top_k else logits).double()
    best = best[best > -torch.inf]
    if len(best) < 2:
        return temperature
    logprobs = best.log_softmax(-1)
    share = min(1.0, max(0.0, float(-(logprobs.exp() * logprobs).sum()) / math.log(len(best))))
    least = max(0.0, temperature - spread)
    return max(_LEAST_TEMPERATURE, least + (temperature + spread - least) * math.pow(share, exponent))
