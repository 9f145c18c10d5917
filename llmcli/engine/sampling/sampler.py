"""From logits to the next token: filters, then one draw.

`distribution` defines how a token is chosen. What verifies or displays a choice uses it too, so no filter is applied
differently in a second place. V is the vocabulary.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import accumulate
from random import Random

import torch
from torch import Tensor

from llmcli.engine.events import Filter
from llmcli.engine.sampling.filters import dry
from llmcli.engine.sampling.filters import logits as logit_filters
from llmcli.engine.sampling.filters import probabilities as filters
from llmcli.engine.sampling.filters.probabilities import Candidates
from llmcli.engine.sampling.params import SamplingParams
from llmcli.model.finite import check_greatest, not_finite
from llmcli.text.tokenizer import Tokenizer

_SHORT_LISTS = 64, 1024
_ROW = 256
# Filters of logits, in order, and the settings any of which turns them on.
_OF_LOGITS: dict[Filter, frozenset[str]] = {
    "logit_bias": frozenset({"logit_bias"}),
    "penalties": frozenset({"repeat_penalty", "frequency_penalty", "presence_penalty"}),
    "dry": frozenset({"dry_multiplier"}),
    "top_n_sigma": frozenset({"top_n_sigma"}),
}
# What comes after them, and the settings with which each does nothing. `stages` has those of a default reply always.
_LATER: dict[Filter, dict[str, float]] = {
    "temperature": {},
    "top_k": {"top_k": 0},
    "typical_p": {"typical_p": 1.0},
    "top_p": {"top_p": 1.0},
    "min_p": {"min_p": 0.0},
    "xtc": {"xtc_probability": 0.0},
}
_ALWAYS_STAGES = ("temperature", "top_k", "top_p", "min_p")
# With no other filters on, the greatest logit is chosen at temperature 0.
_KEEP_THE_GREATEST = frozenset({"temperature", "top_k", "top_p", "min_p", "typical_p", "top_n_sigma"})


class Sampler:
    """Chooses tokens as `params` say, with one seeded source of random numbers."""

    def __init__(self, params: SamplingParams, breakers: Collection[int] = ()) -> None:
        """`breakers` are the tokens that end repetitions for DRY; see `sampler_for`."""
        self.params = params
        self._breakers = breakers
        # Not torch's: the same seed then gives the same numbers with every version, on every device.
        self._random = Random(params.seed)
        self._given_back: deque[float] = deque()
        self._of_logits = [name for name, settings in _OF_LOGITS.items() if settings & params.active]
        self._is_greatest = params.temperature == 0 and params.active <= _KEEP_THE_GREATEST
        # XTC throws a coin for each place of the text, not a number of the source: however often a distribution is
        # looked at, and by whichever decoder, it is the same.
        self._coins = params.seed if params.seed is not None else self._random.getrandbits(62)

    def distribution(self, logits: Tensor, context: Sequence[int] = ()) -> Tensor:
        """Probabilities after every filter, (V,) float32; greedy decoding is a distribution with a single one.

        `logits` (V,) of any float type; `context` the ids so far, which penalties look at.

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
        if greatest is not None and self._is_greatest:
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

    def greedy(self) -> Sampler:
        """One that takes what is most probable after the filters of logits."""
        return Sampler(replace(self.params, temperature=0.0), self._breakers)

    def uniform(self) -> float:
        """A number from 0 to 1, of the same source as the draws."""
        return self._given_back.popleft() if self._given_back else self._random.random()

    def uniforms(self, count: int) -> list[float]:
        """Numbers from 0 to 1 by which a kernel chooses `count` tokens; 0 where it takes the most probable one."""
        return [self.uniform() if self.params.temperature else 0.0 for _ in range(count)]

    def give_back(self, uniforms: Sequence[float]) -> None:
        """Return numbers by which no token was chosen: they come next again."""
        if self.params.temperature:
            self._given_back.extendleft(reversed(uniforms))

    def _left(self, logits: Tensor, context: Sequence[int]) -> Candidates | Tensor:
        """What is left when all filters have been applied, in order.

        Where it may be most of the vocabulary, the probabilities (V,) of all, in float32.
        """
        logits = logits.float()
        for name in self._of_logits:
            logits = self._changed(name, logits, context)
        params, temperature = self.params, self._temperature(logits)
        few: Candidates | None
        if params.top_k and temperature > 0:
            best, places = logits.topk(min(params.top_k, len(logits)))
            # To be not a number counts as to be the greatest.
            scores = best.tolist()
            check_greatest(scores[0])
            few = Candidates(places.tolist(), _softmax(scores, temperature))
        else:
            best_id = _argmax(logits)
            check_greatest(float(logits[best_id]))
            if temperature == 0:
                return Candidates([best_id], [1.0])
            probabilities = (logits / temperature).softmax(-1)
            few = _most_probable(probabilities, params.top_p) if params.top_p < 1 and params.typical_p == 1 else None
            if few is None:
                return _filtered(probabilities, params, excludes=self._excludes(len(context)))
        # So few numbers are quicker dealt with one by one than by a call of torch for each step.
        if params.typical_p < 1:
            few = few.typical(params.typical_p)
        if params.top_p < 1:
            few = few.nucleus(params.top_p)
        if params.min_p > 0:
            few = few.at_least(params.min_p)
        if self._excludes(len(context)):
            few = few.without_top(params.xtc_threshold)
        return few.in_order()

    def _changed(self, name: Filter, logits: Tensor, context: Sequence[int]) -> Tensor:
        """`logits` (V,) after one of the filters of logits."""
        params = self.params
        if name == "logit_bias":
            return logit_filters.biased(logits, params.logit_bias)
        if name == "penalties":
            return logit_filters.penalized(
                logits,
                logit_filters.last(context, params.repeat_last_n),
                repeat=params.repeat_penalty,
                frequency=params.frequency_penalty,
                presence=params.presence_penalty,
            )
        if name == "dry":
            return dry.dry_penalized(
                logits,
                logit_filters.last(context, params.dry_penalty_last_n),
                self._breakers,
                multiplier=params.dry_multiplier,
                base=params.dry_base,
                allowed_length=params.dry_allowed_length,
            )
        assert name == "top_n_sigma"
        return logit_filters.within_sigma(logits, params.top_n_sigma)

    def _temperature(self, logits: Tensor) -> float:
        """The temperature for `logits` (V,); 0 stays 0."""
        params = self.params
        if not params.dynatemp_range or not params.temperature:
            return params.temperature
        return logit_filters.dynamic_temperature(
            logits, params.temperature, params.dynatemp_range, params.dynatemp_exponent, params.top_k
        )

    def _excludes(self, position: int) -> bool:
        """Whether XTC leaves out the most probable tokens at this position of the text."""
        chance = self.params.xtc_probability
        return chance > 0 and Random(self._coins << 32 | position).random() < chance

    def stages(self, logits: Tensor, context: Sequence[int] = ()) -> dict[Filter, Tensor]:
        """The distribution (V,) after each filter in turn; the last is what `distribution` gives.

        Filters that are off have none, but for those that are on by default.
        """
        found: dict[Filter, Tensor] = {}
        logits = logits.float()
        for name in self._of_logits:
            logits = self._changed(name, logits, context)
            found[name] = logits.softmax(-1)
        # What has been done is off, and the temperature known: of fewer tokens it could be another.
        rest: dict[str, object] = {"logit_bias": (), "dry_multiplier": 0.0, "top_n_sigma": 0.0, "dynatemp_range": 0.0}
        rest |= {"repeat_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
        rest |= {"temperature": self._temperature(logits), "seed": self._coins}
        shown = [name for name, off in _LATER.items() if name in _ALWAYS_STAGES or off.keys() & self.params.active]
        for number, name in enumerate(shown):
            # The same code with what comes later switched off: so there is nothing to keep in step.
            off = {setting: value for later in shown[number + 1 :] for setting, value in _LATER[later].items()}
            params = replace(self.params, **rest, **off)  # type: ignore[arg-type]
            found[name] = Sampler(params).distribution(logits, context)
        return found

    def draw(self, probabilities: Tensor) -> int:
        """One id, with the chances that `probabilities` (V,) give."""
        # float64: in float32 the running sum over a large vocabulary would swallow the rarest tokens.
        cumulative = probabilities.double().cumsum(0)
        point = self.uniform() * cumulative[-1]
        # The first token whose running sum passes the point; one of probability zero never does.
        return int(torch.searchsorted(cumulative, point, right=True).clamp_(max=len(probabilities) - 1))


def sampler_for(params: SamplingParams, tokenizer: Tokenizer) -> Sampler:
    """A sampler for texts of `tokenizer`.

    Raises:
        UsageError: DRY is on, and one of its sequence breakers is in no token.
    """
    texts = params.dry_sequence_breakers if params.dry_multiplier else ()
    return Sampler(params, dry.sequence_breakers(tokenizer, texts) if texts else ())


def _softmax(best: list[float], temperature: float) -> list[float]:
    """Of scores, best first."""
    powers = [math.exp((score - best[0]) / temperature) for score in best]
    total = math.fsum(powers)
    return [power / total for power in powers]


def _most_probable(probabilities: Tensor, top_p: float) -> Candidates | None:
    """The best of all (V,), enough to reach `top_p`; None where these are many."""
    for size in _SHORT_LISTS:
        best, places = probabilities.topk(min(size, len(probabilities)))
        if best.sum() >= top_p:
            return Candidates(places.tolist(), best.tolist())
    return None


def _filtered(probabilities: Tensor, params: SamplingParams, *, excludes: bool) -> Tensor:
    """What `Candidates` do, to a whole vocabulary (V,) of which many may be left."""
    if params.typical_p < 1:
        probabilities = filters.typical(probabilities, params.typical_p)
    if params.top_p < 1:
        probabilities = filters.nucleus(probabilities, params.top_p)
    if params.min_p > 0:
        probabilities = filters.at_least(probabilities, params.min_p)
    return filters.without_top(probabilities, params.xtc_threshold) if excludes else probabilities


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
