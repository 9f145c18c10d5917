"""From logits to the next token: filters, then one draw.

`distribution` is the whole truth about how a token is chosen. Whoever verifies or displays a choice asks it, so there
is no second place where a filter could be applied differently. V is the vocabulary.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from llmcli.engine.events import Filter
from llmcli.engine.params import SamplingParams
from llmcli.errors import LlmcliError

_SHORT_LIST = 1024
_ROW = 256
_ORDER: tuple[Filter, ...] = ("temperature", "top_k", "top_p", "min_p")


class Sampler:
    """Chooses tokens as `params` say, with one seeded source of random numbers."""

    def __init__(self, params: SamplingParams) -> None:
        self.params = params
        # On the CPU whatever the model's device: the same seed then gives the same numbers everywhere.
        self._random = torch.Generator(device="cpu")
        self._random.manual_seed(secrets.randbits(63) if params.seed is None else params.seed)

    def distribution(self, logits: Tensor, context: Sequence[int] = ()) -> Tensor:
        """Probabilities after every filter, (V,) float32; greedy decoding is a distribution with a single one.

        `logits` (V,) of any float type; `context` the ids so far, which the repeat penalty looks at.

        Raises:
            LlmcliError: the logits contain NaN or are infinite.
        """
        logits = logits.float()
        _check(logits)
        params = self.params
        if params.repeat_penalty != 1.0 and context:
            logits = self._penalised(logits, context)
        if params.temperature == 0:
            distribution = torch.zeros_like(logits)
            distribution[_argmax(logits)] = 1.0
            return distribution
        probabilities = (logits / params.temperature).softmax(-1)
        if params.top_k or params.top_p < 1:
            probabilities = self._most_probable(probabilities)
        if params.min_p > 0:
            probabilities = probabilities.masked_fill(probabilities < params.min_p * probabilities.max(), 0.0)
            probabilities = probabilities / probabilities.sum()
        return probabilities

    def choose(self, logits: Tensor, context: Sequence[int] = ()) -> int:
        """The id that `draw` gives of the `distribution`, which is not computed where the most probable one is wanted.

        Raises:
            LlmcliError: the logits contain NaN or are infinite.
        """
        if self.params.temperature > 0 or self.params.repeat_penalty != 1.0:
            return self.draw(self.distribution(logits, context))
        _check(logits)
        return _argmax(logits)

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
        point = torch.rand((), dtype=torch.float64, generator=self._random).to(cumulative.device) * cumulative[-1]
        # The first token whose running sum passes the point; one of probability zero never does.
        return int(torch.searchsorted(cumulative, point, right=True).clamp_(max=len(probabilities) - 1))

    def _penalised(self, logits: Tensor, context: Sequence[int]) -> Tensor:
        seen = torch.tensor(sorted(set(context)), device=logits.device)
        scores = logits[seen]
        penalty = self.params.repeat_penalty
        return logits.index_put((seen,), torch.where(scores < 0, scores * penalty, scores / penalty))

    def _most_probable(self, probabilities: Tensor) -> Tensor:
        """Top-k, then top-p of what is left."""
        top_k, top_p = self.params.top_k, self.params.top_p
        # Without top-k, a short list nearly always reaches top-p; sorting a whole vocabulary costs milliseconds.
        for size in (top_k,) if top_k else (_SHORT_LIST, len(probabilities)):
            best, ids = probabilities.topk(min(size, len(probabilities)))
            total = best.sum()
            if total >= top_p:
                break
        if top_p < 1:
            # A token is needed while those before it have not reached top-p; so the first always stays.
            before = best.cumsum(-1) - best
            best = best.masked_fill(before >= top_p * (total if top_k else 1.0), 0.0)
        return torch.zeros_like(probabilities).scatter_(0, ids, best / best.sum())


def _check(logits: Tensor) -> None:
    if not torch.isfinite(logits.amax()):
        raise LlmcliError(
            "The model's output is not a number (NaN or infinite). Its weights may be damaged, or too large for "
            "this precision: try --dtype float32."
        )


def _argmax(logits: Tensor) -> int:
    """The first of the greatest logits (V,)."""
    # In two steps: torch finds the greatest value much faster than its place (10 against 80 microseconds on a CPU).
    split = len(logits) // _ROW * _ROW
    rows, rest = logits[:split].view(-1, _ROW).amax(1), logits[split:]
    if split == 0 or (len(rest) and bool(rest.amax() > rows.amax())):
        return split + int(rest.argmax())
    row = int(rows.argmax())
    return row * _ROW + int(logits[row * _ROW : (row + 1) * _ROW].argmax())
