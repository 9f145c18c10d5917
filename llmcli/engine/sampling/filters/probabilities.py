"""Filters that remove tokens from a distribution: over a few candidates, or over the whole vocabulary (V,).

In the order in which they apply: typical-p, top-p, min-p, XTC.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from itertools import accumulate, takewhile

import torch
from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """A few tokens, best first until they are put `in_order`, and their probabilities."""

    ids: list[int]
    probabilities: list[float]

    def typical(self, typical_p: float) -> Candidates:
        """See `typical`."""
        logs = [math.log(probability) if probability > 0 else -math.inf for probability in self.probabilities]
        entropy = -math.fsum(p * log for p, log in zip(self.probabilities, logs, strict=True) if p > 0)
        order = sorted(range(len(logs)), key=lambda place: abs(-logs[place] - entropy))
        before = accumulate((self.probabilities[place] for place in order), initial=0.0)
        count = sum(1 for _ in takewhile(lambda reached: reached < typical_p, before))
        return self._of(sorted(order[:count]))

    def nucleus(self, top_p: float) -> Candidates:
        """Top-p: the most probable tokens that together reach `top_p`."""
        # A token is needed while those before it have not reached top-p; so the first always stays.
        before = accumulate(self.probabilities, initial=0.0)
        return self._first(sum(1 for _ in takewhile(lambda reached: reached < top_p, before)))

    def at_least(self, min_p: float) -> Candidates:
        """Min-p: tokens with at least `min_p` times the greatest probability."""
        least = min_p * self.probabilities[0]
        return self._first(sum(1 for _ in takewhile(lambda probability: probability >= least, self.probabilities)))

    def without_top(self, threshold: float) -> Candidates:
        """See `without_top`."""
        above = sum(1 for _ in takewhile(lambda probability: probability >= threshold, self.probabilities))
        return self if above < 2 else self._of(list(range(above - 1, len(self.ids))))

    def in_order(self) -> Candidates:
        """Sorted by id, and in float32: so that a draw gives the same token as from the distribution (V,)."""
        ids, probabilities = zip(*sorted(zip(self.ids, array("f", self.probabilities), strict=True)), strict=True)
        return Candidates(list(ids), list(probabilities))

    def _first(self, count: int) -> Candidates:
        return self._of(list(range(min(count, len(self.ids)))))

    def _of(self, places: list[int]) -> Candidates:
        kept = [self.probabilities[place] for place in places]
        total = math.fsum(kept)
        return Candidates([self.ids[place] for place in places], [probability / total for probability in kept])


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Top-p: keep the greatest of `probabilities` (V,) that together reach `top_p`."""
    best, ids = probabilities.sort(descending=True)
    best = best.masked_fill(best.cumsum(-1) - best >= top_p, 0.0)
    return torch.zeros_like(probabilities).index_copy_(0, ids, best / best.sum())


def at_least(probabilities: Tensor, min_p: float) -> Tensor:
    """Min-p: keep those of `probabilities` (V,) that are at least `min_p` times the greatest."""
    probabilities = probabilities.masked_fill(probabilities < min_p * probabilities.max(), 0.0)
    return probabilities / probabilities.sum()


def typical(probabilities: Tensor, typical_p: float) -> Tensor:
    """Typical-p: keep the most typical of `probabilities` (V,) that together reach `typical_p` (Meister et al. 2022,
    arXiv:2202.00666).

    The closer the surprise of a token, -ln p, is to the entropy of the distribution, the more typical it is.
    """
    entropy = torch.special.entr(probabilities).sum()
    order = (-probabilities.log() - entropy).abs().sort(stable=True).indices
    ordered = probabilities[order]
    ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= typical_p, 0.0)
    return torch.zeros_like(probabilities).index_copy_(0, order, ordered / ordered.sum())


def without_top(probabilities: Tensor, threshold: float) -> Tensor:
    """XTC, "exclude top choices": of two or more `probabilities` (V,) that reach `threshold`, only the least stays.

    By Philipp Emanuel Weidmann, https://github.com/oobabooga/text-generation-webui/pull/6335, and as in llama.cpp.
    """
    above = (probabilities >= threshold).nonzero().flatten()
    if len(above) < 2:
        return probabilities
    least = above[probabilities[above].argmin()]
    kept = probabilities.index_fill(0, above[above != least], 0.0)
    return kept / kept.sum()
