"""From logits to the next token: filters, then one draw.

`distribution` defines how a token is chosen. Verification of drafts and reports of probabilities use it too, so the
filters are implemented once. V is the vocabulary.
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
from llmcli.engine.sampling.filters import logits as logit_filters
from llmcli.engine.sampling.filters import probabilities as filters
from llmcli.engine.sampling.filters.dry import dry_penalized
from llmcli.engine.sampling.filters.probabilities import Candidates
from llmcli.engine.sampling.params import SamplingParams
from llmcli.engine.sampling.sequence_breakers import breakers_of
from llmcli.model.finite import check_greatest, not_finite
from llmcli.text.tokenizer import Tokenizer

_SHORT_LISTS = 64, 1024
_ROW = 256
# Filters of logits, in order, and the settings any of which turns them on.
_LOGIT_FILTERS: dict[Filter, frozenset[str]] = {
    "logit_bias": frozenset({"logit_bias"}),
    "penalties": frozenset({"repeat_penalty", "frequency_penalty", "presence_penalty"}),
    "dry": frozenset({"dry_multiplier"}),
    "top_n_sigma": frozenset({"top_n_sigma"}),
}
# The filters after them, and the settings that turn each off. `stages` always includes those that are on by default.
_LATER_FILTERS: dict[Filter, dict[str, float]] = {
    "temperature": {},
    "top_k": {"top_k": 0},
    "typical_p": {"typical_p": 1.0},
    "top_p": {"top_p": 1.0},
    "min_p": {"min_p": 0.0},
    "xtc": {"xtc_probability": 0.0},
}
_ALWAYS_STAGES = ("temperature", "top_k", "top_p", "min_p")
# If no other filters are on, temperature 0 chooses the greatest logit.
_KEEP_THE_GREATEST = frozenset({"temperature", "top_k", "top_p", "min_p", "typical_p", "top_n_sigma"})


class Sampler:
    """Chooses tokens by `params`, with one seeded random number generator."""

    def __init__(self, params: SamplingParams, breakers: Collection[int] = ()) -> None:
        """`breakers` are the tokens that end repetitions for DRY; see `sampler_for`."""
        self.params = params
        self._breakers = breakers
        # Python's generator instead of torch's: a seed gives the same numbers with every version and on every device.
        self._random = Random(params.seed)
        self._returned: deque[float] = deque()
        self._active_logit_filters = [name for name, settings in _LOGIT_FILTERS.items() if settings & params.active]
        self._is_greatest = params.temperature == 0 and params.active <= _KEEP_THE_GREATEST
        # XTC uses a random number that depends only on the seed and the position in the text, not the next one of the
        # generator: so every decoder computes the same distribution, however often it does.
        self._xtc_seed = params.seed if params.seed is not None else self._random.getrandbits(62)

    def distribution(self, logits: Tensor, context: Sequence[int] = ()) -> Tensor:
        """Probabilities after every filter, (V,) float32; for greedy decoding, 1 for a single token.

        `logits` (V,) have any float type; `context` are the ids so far, for the penalties.

        Raises:
            NotFiniteError: the logits contain NaN or are infinite.
        """
        left = self._filter(logits, context)
        if isinstance(left, Tensor):
            return left
        ids, probabilities = torch.tensor(left.ids), torch.tensor(left.probabilities)
        return torch.zeros(len(logits)).index_copy_(0, ids, probabilities).to(logits.device)

    def choose(self, logits: Tensor, context: Sequence[int] = (), *, greatest: tuple[int, float] | None = None) -> int:
        """The id that `draw` gives for the `distribution`, computed without (V,) tensors where few tokens are left.

        `greatest` is the id of the first of the greatest logits and its value, if known.

        Raises:
            NotFiniteError: the logits contain NaN or are infinite.
        """
        if greatest is not None and self._is_greatest:
            check_greatest(greatest[1])
            return greatest[0]
        left = self._filter(logits, context)
        if isinstance(left, Tensor):
            return self.draw(left)
        if self.params.temperature == 0:
            return left.ids[0]
        sums = list(accumulate(left.probabilities))
        place = bisect_right(sums, self.uniform() * sums[-1])
        return left.ids[min(place, len(sums) - 1)]

    def greedy(self) -> Sampler:
        """A sampler with the same settings that takes the most probable token."""
        return Sampler(replace(self.params, temperature=0.0), self._breakers)

    def uniform(self) -> float:
        """A random number from 0 to 1, from the same generator as the draws."""
        return self._returned.popleft() if self._returned else self._random.random()

    def uniforms(self, count: int) -> list[float]:
        """Random numbers from 0 to 1 for a kernel that chooses `count` tokens; all 0 for greedy decoding."""
        return [self.uniform() if self.params.temperature else 0.0 for _ in range(count)]

    def give_back(self, uniforms: Sequence[float]) -> None:
        """Return random numbers that were not used: `uniform` gives them again next."""
        if self.params.temperature:
            self._returned.extendleft(reversed(uniforms))

    def _filter(self, logits: Tensor, context: Sequence[int]) -> Candidates | Tensor:
        """The tokens that all filters leave, and their probabilities.

        If these may be most of the vocabulary: the probabilities (V,) of all tokens in float32.
        """
        logits = logits.float()
        for name in self._active_logit_filters:
            logits = self._filter_logits(name, logits, context)
        params, temperature = self.params, self._temperature(logits)
        few: Candidates | None
        if params.top_k and temperature > 0:
            best, places = logits.topk(min(params.top_k, len(logits)))
            # A logit that is NaN counts as the greatest.
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
                return _filtered(probabilities, params, excludes=self._xtc_applies(len(context)))
        # For this few numbers plain Python is faster than one call of torch for each filter.
        if params.typical_p < 1:
            few = few.typical(params.typical_p)
        if params.top_p < 1:
            few = few.nucleus(params.top_p)
        if params.min_p > 0:
            few = few.at_least(params.min_p)
        if self._xtc_applies(len(context)):
            few = few.without_top(params.xtc_threshold)
        return few.in_order()

    def _filter_logits(self, name: Filter, logits: Tensor, context: Sequence[int]) -> Tensor:
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
            return dry_penalized(
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

    def _xtc_applies(self, position: int) -> bool:
        """Whether XTC leaves out the most probable tokens at this position of the text."""
        chance = self.params.xtc_probability
        return chance > 0 and Random(self._xtc_seed << 32 | position).random() < chance

    def stages(self, logits: Tensor, context: Sequence[int] = ()) -> dict[Filter, Tensor]:
        """The distribution (V,) after each filter in turn; the last equals `distribution`.

        Filters that are off are left out, except those that are on by default.
        """
        found: dict[Filter, Tensor] = {}
        logits = logits.float()
        for name in self._active_logit_filters:
            logits = self._filter_logits(name, logits, context)
            found[name] = logits.softmax(-1)
        # The filters of logits have been applied, so they are off. The temperature is fixed here: computed again from
        # fewer tokens it could differ.
        rest: dict[str, object] = {"logit_bias": (), "dry_multiplier": 0.0, "top_n_sigma": 0.0, "dynatemp_range": 0.0}
        rest |= {"repeat_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
        rest |= {"temperature": self._temperature(logits), "seed": self._xtc_seed}
        shown = [
            name for name, off in _LATER_FILTERS.items() if name in _ALWAYS_STAGES or off.keys() & self.params.active
        ]
        for number, name in enumerate(shown):
            # The same code with all later filters off, so that there is no second implementation.
            off = {setting: value for later in shown[number + 1 :] for setting, value in _LATER_FILTERS[later].items()}
            params = replace(self.params, **rest, **off)  # type: ignore[arg-type]
            found[name] = Sampler(params).distribution(logits, context)
        return found

    def draw(self, probabilities: Tensor) -> int:
        """Draw one id from `probabilities` (V,)."""
        # float64: in float32 the rarest tokens of a large vocabulary would not change the running sum.
        cumulative = probabilities.double().cumsum(0)
        point = self.uniform() * cumulative[-1]
        # The first token whose running sum passes the point; one of probability zero never does.
        return int(torch.searchsorted(cumulative, point, right=True).clamp_(max=len(probabilities) - 1))


def sampler_for(params: SamplingParams, tokenizer: Tokenizer) -> Sampler:
    """A sampler for texts of `tokenizer`.

    Raises:
        UsageError: DRY is on, and no token contains one of its sequence breakers.
    """
    return Sampler(params, breakers_of(params, tokenizer))


def _softmax(best: list[float], temperature: float) -> list[float]:
    """Probabilities of logits that are sorted, greatest first."""
    powers = [math.exp((score - best[0]) / temperature) for score in best]
    total = math.fsum(powers)
    return [power / total for power in powers]


def _most_probable(probabilities: Tensor, top_p: float) -> Candidates | None:
    """The most probable tokens of `probabilities` (V,), enough to reach `top_p`; None if more than 1024 are needed."""
    for size in _SHORT_LISTS:
        best, places = probabilities.topk(min(size, len(probabilities)))
        if best.sum() >= top_p:
            return Candidates(places.tolist(), best.tolist())
    return None


def _filtered(probabilities: Tensor, params: SamplingParams, *, excludes: bool) -> Tensor:
    """The filters of `Candidates`, applied to the probabilities (V,) of the whole vocabulary."""
    if params.typical_p < 1:
        probabilities = filters.typical(probabilities, params.typical_p)
    if params.top_p < 1:
        probabilities = filters.nucleus(probabilities, params.top_p)
    if params.min_p > 0:
        probabilities = filters.at_least(probabilities, params.min_p)
    return filters.without_top(probabilities, params.xtc_threshold) if excludes else probabilities


def check_chosen(token: int) -> int:
    """Return `token`, which a kernel has chosen; raise `NotFiniteError` for -1, which stands for logits not finite."""
    if token < 0:
        raise not_finite()
    return token


def _argmax(logits: Tensor) -> int:
    """The index of the first of the greatest logits (V,); NaN counts as the greatest."""
    # In two steps: torch finds the greatest value much faster than its index (10 against 80 microseconds on a CPU).
    size = logits.numel()
    split = size // _ROW * _ROW
    rows, rest = logits[:split].view(-1, _ROW).amax(1), logits[split:]
    if split == 0 or (split < size and bool(rest.amax() > rows.amax())):
        return split + int(rest.argmax())
    row = int(rows.argmax())
    return row * _ROW + int(logits[row * _ROW : (row + 1) * _ROW].argmax())
