"""Choosing tokens where their logits are computed, so that the next pass begins before anyone has seen the token.

The filters and the draw are those of the engine's `Sampler`, as operations of fixed shapes that a CUDA graph can hold:
what differs from reply to reply is read from the device's memory. Random numbers come from outside, so a seed gives the
same text wherever tokens are chosen.

Notes. They are recorded by themselves and launched right behind the pass: whatever cannot be recorded here leaves the
pass's own graph whole. Prediction: some 30 small kernels, 60 us of the GPU's time with 64 candidates and 250 us where
all of a vocabulary of 128k is sorted; nothing of the processor's, which is a pass ahead. Not yet measured on a GPU.

Dimension letters: V vocabulary, W candidates, N draws.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcli.kernels.cuda.graph_capture import recorded
from llmcli.kernels.sampling_filters import SamplingFilters

_FILTERS = frozenset({"repeat_penalty", "temperature", "top_k", "top_p", "min_p"})
# Of how many candidates a draw is made: each has a graph of its own. More are as many as there are.
_WIDTHS = 64, 1024


@dataclass(frozen=True)
class Kind:
    """What is decided when a graph is recorded."""

    width: int
    """Candidates of a draw; 0: the most probable token is taken."""
    penalized: bool

    @classmethod
    def of(cls, filters: SamplingFilters, vocab_size: int) -> Kind:
        """The kind that serves these filters."""
        wide = [width for width in _WIDTHS if 0 < filters.top_k <= width < vocab_size]
        width = 0 if filters.temperature == 0 else min(wide, default=vocab_size)
        return cls(width, filters.repeat_penalty != 1)


def settings_of(filters: SamplingFilters) -> Tensor:
    """The numbers that `choose` reads, (5,) float64."""
    # What is off rules nothing out: neither a rank nor a sum that rounding has made as great as all.
    top_k, top_p = filters.top_k or torch.inf, filters.top_p if filters.top_p < 1 else torch.inf
    numbers = filters.repeat_penalty, filters.temperature, top_k, top_p, filters.min_p
    return torch.tensor(numbers, dtype=torch.float64)


def choose(logits: Tensor, seen: Tensor, uniforms: Tensor, settings: Tensor, kind: Kind) -> Tensor:
    """Ids (N,) drawn by the numbers `uniforms` (N,) from 0 to 1, float64; -1 where logits are no finite numbers.

    `logits` (V,) float32; `seen` (V,) says which tokens the text has, which the repeat penalty looks at.
    """
    penalty, temperature, top_k, top_p, min_p = settings.unbind()
    if kind.penalized:
        logits = torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)
    greatest = logits.amax()
    places = torch.arange(len(logits), device=logits.device)
    if kind.width:
        chosen = _drawn(logits, uniforms, temperature, top_k, top_p, min_p, kind.width)
    else:
        # The first of the greatest, which is more than argmax promises on a GPU.
        chosen = torch.where(logits == greatest, places, len(logits) - 1).amin().expand(len(uniforms))
    return torch.where(greatest.isfinite(), chosen, -1)


def _drawn(
    logits: Tensor, uniforms: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, width: int
) -> Tensor:
    best, ids = logits.topk(width)  # (W,)
    scores = (best.double() - best[0]) / temperature
    scores = scores.masked_fill(torch.arange(width, device=logits.device) >= top_k, -torch.inf)
    probabilities = scores.softmax(0)
    # A token is needed while those before it have not reached top-p; so the first always stays.
    before = probabilities.cumsum(0) - probabilities
    probabilities = probabilities.masked_fill(before >= top_p, 0.0)
    probabilities = probabilities.masked_fill(probabilities < min_p * probabilities[0], 0.0)
    # In the order of the vocabulary, as `Sampler` draws: the same number then draws the same token.
    ids, order = ids.sort()
    sums = probabilities[order].cumsum(0)
    # Below the sum of all, whatever is rounded: the first whose running sum passes the point is never one ruled out.
    points = torch.minimum(uniforms * sums[-1], torch.nextafter(sums[-1], torch.zeros_like(sums[-1])))
    return ids[torch.searchsorted(sums, points, right=True).clamp_(max=width - 1)]


class DeviceChoice:
    """The token of a text that was chosen last, in the device's memory, and the choice of the next."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._captures = device.type == "cuda"
        self.token = torch.zeros(1, dtype=torch.int64, device=device)
        """The one chosen last, (1,)."""
        self._told = torch.zeros_like(self.token)
        self._logits = torch.zeros(vocab_size, device=device)
        self._seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self._uniform = torch.zeros(1, dtype=torch.float64, device=device)
        self._settings = torch.zeros(5, dtype=torch.float64, device=device)
        self._kind = Kind(0, False)
        # None: it could not be recorded.
        self._graphs: dict[Kind, torch.cuda.CUDAGraph | None] = {}
        self._waiting: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()

    @staticmethod
    def chooses(filters: SamplingFilters) -> bool:
        """Whether it knows all of the filters that are on."""
        return filters.active <= _FILTERS

    def begin(self, filters: SamplingFilters, ids: Sequence[int]) -> None:
        """Tokens are to be chosen so from here on, in a text that has `ids`, the last of which is not read yet."""
        self._waiting.clear()
        self._kind = Kind.of(filters, len(self._logits))
        self._settings.copy_(settings_of(filters))
        self.token.fill_(ids[-1])
        if self._kind.penalized:
            self._seen.zero_()
            self._seen[torch.tensor(sorted(set(ids)), device=self._seen.device)] = True

    def choose(self, logits: Tensor, uniform: float) -> None:
        """Choose by `logits` (V,) and a number from 0 to 1; on a GPU nothing waits for it."""
        # Streams and graphs are those of the current device.
        with torch.cuda.device(self.token.device) if self._captures else nullcontext():
            self._logits.copy_(logits)
            # Pinned memory is given back when the copy has been made, not before.
            number = torch.tensor([uniform], dtype=torch.float64, pin_memory=self._captures)
            self._uniform.copy_(number, non_blocking=True)
            self._run()
            told = torch.empty(1, dtype=torch.int64, pin_memory=self._captures)
            told.copy_(self._told, non_blocking=True)
            self._waiting.append((told, torch.cuda.current_stream().record_event() if self._captures else None))

    def chosen(self) -> int:
        """The id chosen first of those not asked for yet, as soon as it is there; -1: the logits are no numbers."""
        told, event = self._waiting.popleft()
        if event is not None:
            event.synchronize()
        return int(told)

    def _run(self) -> None:
        graph = self._graphs.get(self._kind)
        if graph is not None:
            graph.replay()
            return
        # Not recorded at once: libraries make what they need for themselves when they are called first.
        self._compute()
        if self._captures and self._kind not in self._graphs:
            self._graphs[self._kind] = self._recorded()

    def _compute(self) -> None:
        self._told.copy_(choose(self._logits, self._seen, self._uniform, self._settings, self._kind))
        # What cannot be told apart must still be a token, for the pass that may have begun with it.
        self.token.copy_(self._told.clamp(min=0))
        if self._kind.penalized:
            self._seen.index_fill_(0, self.token, True)

    def _recorded(self) -> torch.cuda.CUDAGraph | None:
        try:
            return recorded(self._compute, self.token.device)
        except RuntimeError:
            # Then each operation is asked for by itself.
            return None
