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

_SHORT_LISTS = 64, 1024
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
        ids, probabilities = self._candidates(logits, context)
        if ids is None:
            return probabilities
        return torch.zeros(len(logits), device=logits.device).index_copy_(0, ids, probabilities)

    def choose(self, logits: Tensor, context: Sequence[int] = ()) -> int:
        """The id that `draw` gives of the `distribution`, without the vocabulary where few can be chosen.

        Raises:
            LlmcliError: the logits contain NaN or are infinite.
        """
        ids, probabilities = self._candidates(logits, context)
        if ids is not None and len(ids) == 1:
            return int(ids)
        place = self.draw(probabilities)
        return place if ids is None else int(ids[place])

    def _candidates(self, logits: Tensor, context: Sequence[int]) -> tuple[Tensor | None, Tensor]:
        """The ids that are left when all filters have been applied, in order, and their probabilities in float32.

        Where it may be most of the vocabulary there are no ids, and the probabilities (V,) are those of all.
        """
        logits = logits.float()
        _check(logits)
        params = self.params
        if params.repeat_penalty != 1.0 and context:
            logits = self._penalised(logits, context)
        if params.temperature == 0:
            return torch.tensor([_argmax(logits)], device=logits.device), torch.ones(1, device=logits.device)
        ids: Tensor | None = None
        if params.top_k:
            best, ids = logits.topk(min(params.top_k, len(logits)))
            probabilities = (best / params.temperature).softmax(-1)
        else:
            probabilities = (logits / params.temperature).softmax(-1)
        if params.top_p < 1:
            ids, probabilities = _nucleus(ids, probabilities, params.top_p)
        if params.min_p > 0:
            probabilities = probabilities.masked_fill(probabilities < params.min_p * probabilities.max(), 0.0)
            probabilities = probabilities / probabilities.sum()
        if ids is None:
            return None, probabilities
        # In the order of the vocabulary, so that a draw is the same among few as among all.
        ids, order = ids.sort()
        return ids, probabilities[order]

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


def _nucleus(ids: Tensor | None, probabilities: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The most probable candidates that together reach `top_p`, best first, and their probabilities.

    `ids` go with `probabilities` that are sorted, best first; None stands for the whole vocabulary in order.
    """
    best = probabilities
    if ids is None:
        # A short list nearly always reaches top-p; sorting a whole vocabulary costs milliseconds.
        for size in (*_SHORT_LISTS, len(probabilities)):
            best, ids = probabilities.topk(min(size, len(probabilities)))
            if best.sum() >= top_p:
                break
        assert ids is not None
    # A token is needed while those before it have not reached top-p; so the first always stays.
    before = best.cumsum(-1) - best
    best = best.masked_fill(before >= top_p, 0.0)
    return ids, best / best.sum()


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
