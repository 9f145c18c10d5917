"""How many tokens to propose: the number with the best expected gain, from measured acceptance rates and costs."""

from __future__ import annotations

from collections.abc import Sequence

# The weight of a new time in its moving average, and its limit as a multiple of the average: longer is an outlier.
_NEW, _ACCIDENT = 0.15, 2.0
# What each further token of a pass is assumed to cost until that is measured, in passes of one token.
_SLOPE = 0.2
# Beyond the largest pass that was measured: this multiple of the cost per token so far, and at least this much.
_STEEPER, _LEAST_SLOPE = 2.0, 0.02
# A smaller gain is not worth a larger pass: the measurements are not that exact.
_LEAST_GAIN = 1.03
# Passes of one token before anything is proposed, since the first are slow, and other passes between two of them later.
_FIRST_PLAIN, _PLAIN_AGAIN = 3, 32
# The share of earlier evidence that stays with each token, and while nothing is proposed.
_KEPT, _KEPT_UNTRIED = 0.97, 0.995


class AcceptanceRate:
    """How often tokens of some kind are accepted: a moving average that weighs the latest most."""

    def __init__(self, prior: float, weight: float) -> None:
        """The rate `prior` is assumed at first, with the weight of `weight` tokens."""
        self._prior = prior * weight, weight
        self._taken, self._seen = self._prior

    @property
    def value(self) -> float:
        """From 0 to 1."""
        return self._taken / self._seen

    def saw(self, taken: bool) -> None:
        """One more was accepted, or was not."""
        self._taken, self._seen = _KEPT * self._taken + taken, _KEPT * self._seen + 1

    def forget(self) -> None:
        """None was proposed this time: the rate goes back towards the prior, little by little."""
        self._taken = _KEPT_UNTRIED * self._taken + (1 - _KEPT_UNTRIED) * self._prior[0]
        self._seen = _KEPT_UNTRIED * self._seen + (1 - _KEPT_UNTRIED) * self._prior[1]


class StepCosts:
    """What passes of several tokens cost, in passes of one token."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._plain_passes = self._passes_since = 0

    @property
    def plain_is_known(self) -> bool:
        """Whether passes of one token, the unit of all costs, were measured often enough and recently."""
        return self._plain_passes >= _FIRST_PLAIN and self._passes_since < _PLAIN_AGAIN

    @property
    def plain_s(self) -> float | None:
        """Seconds of a pass of one token; None before the first."""
        return self._seconds.get(1)

    def saw(self, tokens: int, seconds: float) -> None:
        """A pass of `tokens` tokens took `seconds`."""
        before = self._seconds.get(tokens)
        if tokens == 1:
            self._plain_passes, self._passes_since = self._plain_passes + 1, 0
        else:
            self._passes_since += 1
        if before is None and self.plain_s is not None:
            # A first time that is far too long would prevent a second.
            seconds = min(seconds, 2 * self.ratio(tokens) * self.plain_s)
        if before is not None and tokens == 1 and self._plain_passes <= _FIRST_PLAIN:
            self._seconds[1] = min(before, seconds)
        else:
            self._seconds[tokens] = mixed(before, seconds)

    def ratio(self, tokens: int) -> float:
        """The cost of a pass of `tokens` tokens in passes of one, measured or estimated from the nearest measured."""
        below = max((count for count in self._seconds if count <= tokens), default=1)
        above = min((count for count in self._seconds if count > tokens), default=None)
        least = self._measured(below)
        if above is None or below == tokens:
            # Larger passes cost more for each token, as soon as it is no longer the weights alone that take time.
            slope = _SLOPE if below == 1 else _STEEPER * (least - 1) / (below - 1) + _LEAST_SLOPE
            return least + slope * (tokens - below)
        return least + (self._measured(above) - least) * (tokens - below) / (above - below)

    def _measured(self, tokens: int) -> float:
        plain_s = self.plain_s
        return 1.0 if plain_s is None else max(1.0, self._seconds[tokens] / plain_s)

    def best(self, chances: Sequence[float], *, each: float = 0.0, limit: float = float("inf")) -> tuple[int, float]:
        """How many proposals to make, and the expected gain; `chances` are their acceptance rates if those before are.

        Each costs `each` passes of one token to make. No more than `limit` may be lost if none is accepted. The gain is
        in tokens in the time of a pass of one token (Leviathan et al. 2023, theorem 3.8, with measured costs).
        """
        count, gain = 0, 1.0
        survive = tokens = 1.0
        for proposed, chance in enumerate(chances, 1):
            survive *= chance
            tokens += survive
            cost = self.ratio(proposed + 1) + proposed * each
            if tokens / cost > max(gain, _LEAST_GAIN) and cost - 1 <= limit:
                count, gain = proposed, tokens / cost
        return count, gain


def mixed(before: float | None, seconds: float) -> float:
    """The moving average of a time after one more measurement, which counts most."""
    return seconds if before is None else before + _NEW * (min(seconds, _ACCIDENT * before) - before)
