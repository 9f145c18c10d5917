"""GPU sampling: tokens are sampled on the device, so that the next pass starts before the token reaches the host.

Filters and sampling are those of the engine's `Sampler`, as operations of fixed shapes that a CUDA graph can capture;
settings that differ between replies are read from device memory. Random numbers come from the host, so a seed gives the
same text on every path.

Notes. Sampling has a separate graph, launched right after the pass: if it cannot be captured, the graph of the pass is
not affected. Prediction: some 30 small kernels, 60 us of the GPU's time with 64 candidates and 250 us where all of a
vocabulary of 128k is sorted; no time of the CPU's, which is a pass ahead. Not yet measured on a GPU.

Dimension letters: V vocabulary, W candidates, N draws.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcli.kernels.cuda.graph_capture import capture_graph
from llmcli.kernels.sampling_filters import SamplingFilters

_FILTERS = frozenset({"repeat_penalty", "temperature", "top_k", "top_p", "min_p"})
# Numbers of candidates for sampling, each with a separate graph. Beyond the last, the whole vocabulary is sorted.
_WIDTHS = 64, 1024


@dataclass(frozen=True)
class Kind:
    """The settings that are fixed when a graph is captured."""

    width: int
    """Number of candidates; 0: greedy decoding."""
    penalized: bool

    @classmethod
    def of(cls, filters: SamplingFilters, vocab_size: int) -> Kind:
        """The kind of graph for these filters."""
        wide = [width for width in _WIDTHS if 0 < filters.top_k <= width < vocab_size]
        width = 0 if filters.temperature == 0 else min(wide, default=vocab_size)
        return cls(width, filters.repeat_penalty != 1)


def settings_of(filters: SamplingFilters) -> Tensor:
    """The numbers that `choose` reads, (5,) float64."""
    # Filters that are off get infinity, so that no rank or rounded cumulative probability can reach them.
    top_k, top_p = filters.top_k or torch.inf, filters.top_p if filters.top_p < 1 else torch.inf
    numbers = filters.repeat_penalty, filters.temperature, top_k, top_p, filters.min_p
    return torch.tensor(numbers, dtype=torch.float64)


def choose(logits: Tensor, seen: Tensor, uniforms: Tensor, settings: Tensor, kind: Kind) -> Tensor:
    """Sample ids (N,) with the random numbers `uniforms` (N,) from 0 to 1, float64; -1 where logits are not finite.

    `logits` (V,) float32; `seen` (V,) is True for tokens in the text, to which the repeat penalty applies.
    """
    penalty, temperature, top_k, top_p, min_p = settings.unbind()
    if kind.penalized:
        logits = torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)
    greatest = logits.amax()
    places = torch.arange(len(logits), device=logits.device)
    if kind.width:
        chosen = _drawn(logits, uniforms, temperature, top_k, top_p, min_p, kind.width)
    else:
        # The lowest id among equal logits; argmax on a GPU does not guarantee that.
        chosen = torch.where(logits == greatest, places, len(logits) - 1).amin().expand(len(uniforms))
    return torch.where(greatest.isfinite(), chosen, -1)


def _drawn(
    logits: Tensor, uniforms: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, width: int
) -> Tensor:
    best, ids = logits.topk(width)  # (W,)
    scores = (best.double() - best[0]) / temperature
    scores = scores.masked_fill(torch.arange(width, device=logits.device) >= top_k, -torch.inf)
    probabilities = scores.softmax(0)
    # A token is kept if the probabilities before it sum to less than top-p; so the first is always kept.
    before = probabilities.cumsum(0) - probabilities
    probabilities = probabilities.masked_fill(before >= top_p, 0.0)
    probabilities = probabilities.masked_fill(probabilities < min_p * probabilities[0], 0.0)
    # In the order of the vocabulary, as in `Sampler`, so that the same random number gives the same token.
    ids, order = ids.sort()
    sums = probabilities[order].cumsum(0)
    # Strictly below the total even after rounding, so that no excluded token is ever selected.
    points = torch.minimum(uniforms * sums[-1], torch.nextafter(sums[-1], torch.zeros_like(sums[-1])))
    return ids[torch.searchsorted(sums, points, right=True).clamp_(max=width - 1)]


class DeviceChoice:
    """The last sampled token of a text, in device memory, and the sampling of the next."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._captures = device.type == "cuda"
        self.token = torch.zeros(1, dtype=torch.int64, device=device)
        """The last sampled token, (1,)."""
        self._result = torch.zeros_like(self.token)
        self._logits = torch.zeros(vocab_size, device=device)
        self._seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self._uniform = torch.zeros(1, dtype=torch.float64, device=device)
        self._settings = torch.zeros(5, dtype=torch.float64, device=device)
        self._kind = Kind(0, False)
        # None: it could not be captured.
        self._graphs: dict[Kind, torch.cuda.CUDAGraph | None] = {}
        self._waiting: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()

    @staticmethod
    def chooses(filters: SamplingFilters) -> bool:
        """Whether all filters that are on are supported."""
        return filters.active <= _FILTERS

    def begin(self, filters: SamplingFilters, ids: Sequence[int]) -> None:
        """Start sampling with `filters` in a text with the tokens `ids`, the last of which is not in the cache yet."""
        self._waiting.clear()
        self._kind = Kind.of(filters, len(self._logits))
        self._settings.copy_(settings_of(filters))
        self.token.fill_(ids[-1])
        if self._kind.penalized:
            self._seen.zero_()
            self._seen[torch.tensor(sorted(set(ids)), device=self._seen.device)] = True

    def choose(self, logits: Tensor, uniform: float) -> None:
        """Sample from `logits` (V,) with a random number from 0 to 1; on a GPU this does not wait for the result."""
        # Streams and graphs are those of the current device.
        with torch.cuda.device(self.token.device) if self._captures else nullcontext():
            self._logits.copy_(logits)
            # PyTorch reuses pinned memory only after the copy is complete.
            number = torch.tensor([uniform], dtype=torch.float64, pin_memory=self._captures)
            self._uniform.copy_(number, non_blocking=True)
            self._run()
            result = torch.empty(1, dtype=torch.int64, pin_memory=self._captures)
            result.copy_(self._result, non_blocking=True)
            self._waiting.append((result, torch.cuda.current_stream().record_event() if self._captures else None))

    def chosen(self) -> int:
        """Wait for the oldest sampled token that was not returned yet; -1: its logits were not finite."""
        result, event = self._waiting.popleft()
        if event is not None:
            event.synchronize()
        return int(result)

    def _run(self) -> None:
        graph = self._graphs.get(self._kind)
        if graph is not None:
            graph.replay()
            return
        # Not captured in the first call, in which libraries allocate their workspaces.
        self._compute()
        if self._captures and self._kind not in self._graphs:
            self._graphs[self._kind] = self._captured_graph()

    def _compute(self) -> None:
        self._result.copy_(choose(self._logits, self._seen, self._uniform, self._settings, self._kind))
        # The next pass may start with the token before -1 is noticed, so it must be a valid id.
        self.token.copy_(self._result.clamp(min=0))
        if self._kind.penalized:
            self._seen.index_fill_(0, self.token, True)

    def _captured_graph(self) -> torch.cuda.CUDAGraph | None:
        try:
            return capture_graph(self._compute, self.token.device)
        except RuntimeError:
            # Without a graph each operation is launched separately.
            return None
