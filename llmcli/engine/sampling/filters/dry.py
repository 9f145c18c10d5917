"""DRY ("don't repeat yourself"): the longer a repetition that a token would continue, the less probable it becomes.

By Philipp Emanuel Weidmann, https://github.com/oobabooga/text-generation-webui/pull/5677; settings and limits are those
of llama.cpp. V is the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

# The natural logarithm of the greatest float32, at which llama.cpp limits the power; and the greatest penalty, so that
# logits stay finite.
_MOST_LOG, _MOST_PENALTY = 88.7228391, 1e30


def dry_penalized(
    logits: Tensor,
    context: Sequence[int],
    breakers: Collection[int],
    *,
    multiplier: float,
    base: float,
    allowed_length: int,
) -> Tensor:
    """Subtract `multiplier * base ** (n - allowed_length)` from each token that would continue a repetition.

    `n` is the length of the longest match, at least `allowed_length`: the last `n` tokens of `context` also precede an
    earlier occurrence of the token. No match crosses one of `breakers`, which are not penalized either.
    """
    matches = repetitions(context, breakers, most=allowed_length + _most_exponent(base))
    found = {token: length for token, length in matches.items() if length >= allowed_length and token < len(logits)}
    if not found:
        return logits
    penalties = [min(_MOST_PENALTY, multiplier * base ** (length - allowed_length)) for length in found.values()]
    ids = torch.tensor(list(found), device=logits.device)
    less = logits[ids] - torch.tensor(penalties, dtype=logits.dtype, device=logits.device)
    return logits.index_put((ids,), less)


def repetitions(context: Sequence[int], breakers: Collection[int], *, most: int) -> dict[int, int]:
    """For each token that would continue a repetition, the length of that repetition, at most `most`."""
    ids = list(context)
    found: dict[int, int] = {}
    if not ids or ids[-1] in breakers:
        return found
    newest, at = len(ids) - 1, -1
    while True:
        try:
            at = ids.index(ids[newest], at + 1, newest)
        except ValueError:
            return found
        following = ids[at + 1]
        if following in breakers:
            continue
        length = 1
        while length < min(most, at + 1):
            previous = ids[newest - length]
            if ids[at - length] != previous or previous in breakers:
                break
            length += 1
        found[following] = max(length, found.get(following, 0))


def _most_exponent(base: float) -> int:
    # For a base of 1 all powers are equal, and the length of the match needs no limit.
    return int(_MOST_LOG / math.log(base)) if base > 1.000001 else 1 << 20
