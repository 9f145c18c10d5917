"""From logits to the next token: filters, then one draw.

`distribution` is the whole truth about how a token is chosen. Whoever verifies or displays a choice asks it, so there
is no second place where a filter could be applied differently. V is the vocabulary.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, takewhile
from random import Random

import torch
from torch import Tensor

from llmcli.engine.events import Filter
from llmcli.engine.sampling_params import SamplingParams
from llmcli.model.finite import check_greatest, not_finite

_SHORT_LISTS = 64, 1024
_ROW = 256
_ORDER: tuple[Filter, ...] = ("temperature", "top_k", "top_p", "min_p")


class Sampler:
    """Chooses tokens as `params` say, with one seeded source of random numbers."""

    def __init__(self, params: SamplingParams) -> None:
        self.params = params
        # Not torch's: the same seed then gives the same numbers with every version, on every device.
        self._random = Random(params.seed)
        self._given_back: deque[float] = deque()

    def distribution(self, logits: Tensor, context: Sequence[int] = ()) -> Tensor:
        """Probabilities after every filter, (V,) float32; greedy decoding is a distribution with a single one.

        `logits` (V,) of any float type; `context` the ids so far, which the repeat penalty looks at.

        Raises:
            NotFiniteError: the logits contain NaN or are infinite.
        """
        left = self._left(logits, context)
        if isinstance(left, Tensor):
            return left
        ids, probabilities = torch.tensor(left.ids), torch.tensor(left.probabilities)
        return torch.zeros(len(logits)).index_copy_(0, ids, probabilities).to(logits.device)

    def choose(self, logits: Tensor, context: Sequence[int] = (), *, greatest: tuple[int, float] | None = None) -> int:
        """The id that `draw` gives of the `distribution`, without the vocabulary where few can be chosen.

        `greatest` is the first of the greatest logits, and what it is, where that is known.

        Raises:
            NotFiniteError: the logits contain NaN or are infinite.
        """
        if greatest is not None and self.params.temperature == 0 and self.params.repeat_penalty == 1.0:
            check_greatest(greatest[1])
            return greatest[0]
        left = self._left(logits, context)
        if isinstance(left, Tensor):
            return self.draw(left)
        if self.params.temperature == 0:
            return left.ids[0]
        sums = list(accumulate(left.probabilities))
        place = bisect_right(sums, self.uniform() * sums[-1])
        return left.ids[min(place, len(sums) - 1)]

    def uniform(self) -> float:
        """A number from 0 to 1, of the same source as the draws."""
        return self._given_back.popleft() if self._given_back else self._random.random()

    def uniforms(self, count: int) -> list[float]:
        """The numbers by which so many tokens are chosen elsewhere; where the most probable is taken, none is drawn."""
        return [self.uniform() if self.params.temperature else 0.0 for _ in range(count)]

    def give_back(self, uniforms: Sequence[float]) -> None:
        """Those of `uniforms` by which no token was chosen are the next ones again."""
        if self.params.temperature:
            self._given_back.extendleft(reversed(uniforms))

    def _left(self, logits: Tensor, context: Sequence[int]) -> _Few | Tensor:
        """What is left when all filters have been applied, in order.

        Where it may be most of the vocabulary, the probabilities (V,) of all, in float32.
        """
        logits = logits.float()
        params = self.params
        if params.repeat_penalty != 1.0 and context:
            logits = self._penalized(logits, context)
        few: _Few | None
        if params.top_k and params.temperature > 0:
            best, places = logits.topk(min(params.top_k, len(logits)))
            # To be not a number counts as to be the greatest.
            scores = best.tolist()
            check_greatest(scores[0])
            few = _Few(places.tolist(), _softmax(scores, params.temperature))
        else:
            best_id = _argmax(logits)
            check_greatest(float(logits[best_id]))
            if params.temperature == 0:
                return _Few([best_id], [1.0])
            probabilities = (logits / params.temperature).softmax(-1)
            few = _most_probable(probabilities, params.top_p) if params.top_p < 1 else None
            if few is None:
                return _filtered(probabilities, params.top_p, params.min_p)
        # So few numbers are quicker dealt with one by one than by a call of torch for each step.
        if params.top_p < 1:
            few = few.nucleus(params.top_p)
        if params.min_p > 0:
            few = few.at_least(params.min_p)
        return few.in_order()

    def stages(self, logits: Tensor, context: Sequence[int] = ()) -> dict[Filter, Tensor]:
        """The distribution (V,) after each filter in turn; the last is what `distribution` gives."""
        off = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
        found: dict[Filter, Tensor] = {}
        for name in _ORDER:
            off.pop(name, None)
            # The same code with what comes later switched off: so there is nothing to keep in step.
            found[name] = Sampler(replace(self.params, **off)).distribution(logits, context)  # type: ignore[arg-type]
        return found

    def draw(self, probabilities: Tensor) -> int:
        """One id, with the chances that `probabilities` (V,) give."""
        # float64: in float32 the running sum over a large vocabulary would swallow the rarest tokens.
        cumulative = probabilities.double().cumsum(0)
        point = self.uniform() * cumulative[-1]
        # The first token whose running sum passes the point; one of probability zero never does.
        return int(torch.searchsorted(cumulative, point, right=True).clamp_(max=len(probabilities) - 1))

    def _penalized(self, logits: Tensor, context: Sequence[int]) -> Tensor:
        seen = torch.tensor(sorted(set(context)), device=logits.device)
        scores = logits[seen]
        penalty = self.params.repeat_penalty
        return logits.index_put((seen,), torch.where(scores < 0, scores * penalty, scores / penalty))


@dataclass(frozen=True)
class _Few:
    """Candidates, best first until they are put `in_order`, and their probabilities."""

    ids: list[int]
    probabilities: list[float]

    def nucleus(self, top_p: float) -> _Few:
        """The most probable that together reach `top_p`."""
        # A token is needed while those before it have not reached top-p; so the first always stays.
        before = accumulate(self.probabilities, initial=0.0)
        return self._first(sum(1 for _ in takewhile(lambda reached: reached < top_p, before)))

    def at_least(self, min_p: float) -> _Few:
        """Those that have that share of the best one's probability."""
        least = min_p * self.probabilities[0]
        return self._first(sum(1 for _ in takewhile(lambda probability: probability >= least, self.probabilities)))

    def in_order(self) -> _Few:
        """As in the vocabulary, and in float32: so that a draw is the same among few as among all."""
        ids, probabilities = zip(*sorted(zip(self.ids, array("f", self.probabilities), strict=True)), strict=True)
        return _Few(list(ids), list(probabilities))

    def _first(self, count: int) -> _Few:
        kept = self.probabilities[:count]
        total = math.fsum(kept)
        return _Few(self.ids[:count], [probability / total for probability in kept])


def _softmax(best: list[float], temperature: float) -> list[float]:
    """Of scores, best first."""
    powers = [math.exp((score - best[0]) / temperature) for score in best]
    total = math.fsum(powers)
    return [power / total for power in powers]


def _most_probable(probabilities: Tensor, top_p: float) -> _Few | None:
    """The best of all (V,), enough to reach `top_p`; None where these are many."""
    for size in _SHORT_LISTS:
        best, places = probabilities.topk(min(size, len(probabilities)))
        if best.sum() >= top_p:
            return _Few(places.tolist(), best.tolist())
    return None


def _filtered(probabilities: Tensor, top_p: float, min_p: float) -> Tensor:
    """What `_Few` does, to a whole vocabulary (V,) of which many may be left."""
    if top_p < 1:
        best, ids = probabilities.sort(descending=True)
        best = best.masked_fill(best.cumsum(-1) - best >= top_p, 0.0)
        probabilities = torch.zeros_like(probabilities).index_copy_(0, ids, best / best.sum())
    if min_p > 0:
        probabilities = probabilities.masked_fill(probabilities < min_p * probabilities.max(), 0.0)
        probabilities = probabilities / probabilities.sum()
    return probabilities


def check_chosen(token: int) -> int:
    """The token that was chosen where its logits are; raise `NotFiniteError` for -1: these are no finite numbers."""
    if token < 0:
        raise not_finite()
    return token


def _argmax(logits: Tensor) -> int:
    """The first of the greatest logits (V,); of what is not a number, if there is such."""
    # In two steps: torch finds the greatest value much faster than its place (10 against 80 microseconds on a CPU).
    size = logits.numel()
    split = size // _ROW * _ROW
    rows, rest = logits[:split].view(-1, _ROW).amax(1), logits[split:]
    if split == 0 or (split < size and bool(rest.amax() > rows.amax())):
        return split + int(rest.argmax())
    row = int(rows.argmax())
    return row * _ROW + int(logits[row * _ROW : (row + 1) * _ROW].argmax())
