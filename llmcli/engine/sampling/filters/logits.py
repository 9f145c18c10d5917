"""Filters that change logits (V,) before they become probabilities. V is the vocabulary."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from llmcli.errors import LlmcliError

# The least temperature that dynamic temperature gives: the most probable token then has a probability of almost 1.
_LEAST_TEMPERATURE = 1e-3


def biased(logits: Tensor, bias: Sequence[tuple[int, float]]) -> Tensor:
    """Add the number of each pair (id, number) to that logit; -inf rules the token out. Ids beyond V are ignored.

    Raises:
        LlmcliError: no token is left.
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

    The deviation is that of all logits that are not -inf, as in llama.cpp. Which tokens are kept does not depend on the
    temperature.
    """
    possible = logits[logits > -torch.inf].double()
    if len(possible) < 2:
        return logits
    least = float(possible.max()) - n * float(possible.std(correction=0))
    return logits.masked_fill(logits < least, -torch.inf)


def dynamic_temperature(logits: Tensor, temperature: float, spread: float, exponent: float, top_k: int) -> float:
    """A temperature from `temperature - spread` at entropy 0 to `temperature + spread` at the greatest entropy.

    In between: least + (most - least) * (entropy / greatest entropy) ** `exponent`, as `temp_ext` of llama.cpp. The
    entropy is that of the `top_k` most probable tokens, of all if 0, without those whose logit is -inf.
    """
    # Always the entropy at temperature 1; in float64, since the sum can have hundreds of thousands of terms.
    best = (logits.topk(min(top_k, len(logits))).values if top_k else logits).double()
    best = best[best > -torch.inf]
    if len(best) < 2:
        return temperature
    logprobs = best.log_softmax(-1)
    share = min(1.0, max(0.0, float(-(logprobs.exp() * logprobs).sum()) / math.log(len(best))))
    least = max(0.0, temperature - spread)
    return max(_LEAST_TEMPERATURE, least + (temperature + spread - least) * math.pow(share, exponent))
