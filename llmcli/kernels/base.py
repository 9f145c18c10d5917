"""The interface of steps, their capabilities, the error of a missing kernel, and sizes of prefill chunks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmcli.kernels.sampling_filters import SamplingFilters, SamplingRequest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from llmcli.model import KVCache, Transformer

READABLE_CHUNK = 512
"""Prefill chunk of the readable model, in tokens: large enough to keep the cores busy, small enough that masks and
activations stay small and a signal is handled soon."""
DEVICE_CHUNK = 2048
"""Prefill chunk on a CUDA device, in tokens."""


class NoKernelError(Exception):
    """A kernel cannot run here, or cannot run this model; the message is a short reason, without a full stop."""


@dataclass(frozen=True)
class StepCapabilities:
    """What a step supports beyond `forward`; by default nothing."""

    is_readable: bool = False
    """The step calls the modules of the model: forward hooks run, and torch's threads compute."""
    most_rows: int = 1
    """The most texts that one `forward_rows` extends; 1: one at a time."""
    most_each: int = 1
    """The most tokens that one `forward_each` reads with the bits of single passes; 1: not supported."""
    device_tokens: bool = False
    """`forward_device_token` works: the step reads a token that the host does not know yet."""
    sampling_filters: frozenset[str] = frozenset()
    """Filters that `forward_multi_step` supports; empty: not supported at all."""
    prefill_tile: int = 0
    """A prompt can be read up to any multiple of this many tokens, and later from there, with the bits of reading it
    at once; 0: only up to multiples of the prefill chunk."""
    most_candidates: int = 0
    """The most candidates it draws from: `top_k` must be no more than this, except at temperature 0."""

    def chooses(self, filters: SamplingFilters) -> bool:
        """Whether `forward_multi_step` can choose by `filters`."""
        few = filters.temperature == 0 or 0 < filters.top_k <= self.most_candidates
        return few and filters.active <= self.sampling_filters


class FastStep(ABC):
    """One pass of a model over new tokens. Which of the optional methods may be called is in `capabilities`."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the step, for display."""

    @property
    @abstractmethod
    def prefill_chunk(self) -> int:
        """Tokens of a long text to read per pass; a signal is handled between two chunks."""

    @property
    def capabilities(self) -> StepCapabilities:
        """What it supports beyond `forward`. A kernel that fails in its first pass has fewer from then on."""
        return StepCapabilities()

    @property
    def greatest(self) -> tuple[int, float] | None:
        """The id of the first of the greatest logits of the last pass and its value, if the pass computed that.

        A logit that is NaN counts as the greatest.
        """
        return None

    @abstractmethod
    def forward(self, ids: Sequence[int], cache: KVCache, *, only_last: bool = True) -> Tensor:
        """Logits in float32 after each of `ids`, which follow the text in `cache`: (T, V), or (1, V) of the last."""

    def forward_rows(self, ids: Sequence[int], caches: Sequence[KVCache]) -> Tensor:
        """Logits in float32 (R, V) after the next token of R texts: what `forward` gives for each, to the last bit."""
        import torch

        return torch.cat([self.forward([token], cache) for token, cache in zip(ids, caches, strict=True)])

    def forward_each(self, ids: Sequence[int], cache: KVCache) -> Tensor:
        """Logits in float32 (T, V) after each of `ids`: what `forward` gives for one at a time, to the last bit."""
        import torch

        return torch.cat([self.forward([token], cache) for token in ids])

    def forward_device_token(self, token: Tensor, cache: KVCache) -> Tensor:
        """Logits in float32 (1, V) after `token` (1,), which only the device knows; the host waits for neither.

        The logits are valid until the next pass. The token must be in the vocabulary.
        """
        raise NotImplementedError(f"{self.name}: `capabilities` has no device_tokens")

    def forward_multi_step(self, token: int, cache: KVCache, request: SamplingRequest) -> list[int]:
        """Read `token`, choose the next one, read that, and so on: one token for each number of `request.uniforms`.

        Each token is the one that the engine's `Sampler` chooses with the same number; all but the last are read. The
        list is shorter, but not empty, after one of `request.ends`, after a signal that Python handles, or after -1,
        which stands for logits that are not finite.
        """
        raise NotImplementedError(f"{self.name}: `capabilities` has no sampling_filters")

    def forward_rows_multi_step(
        self, ids: Sequence[int], caches: Sequence[KVCache], requests: Sequence[SamplingRequest | None]
    ) -> list[list[int] | Tensor]:
        """`forward_multi_step` for R texts in the same passes: each gets the tokens that it would get alone.

        A text whose list ends early is left out of the passes after that. A text without a request gets logits in
        float32 (V,) after its token instead; then no request may have more than one number.
        """
        raise NotImplementedError(f"{self.name}: `capabilities` has no sampling_filters")


class Hooks:
    """Whether a model has forward hooks, which observe or change activations: then the readable model must run."""

    def __init__(self, model: nn.Module) -> None:
        # The dictionaries stay the same when hooks are added or removed; collecting them takes as long as a layer.
        self._hooks: list[Mapping[int, object]] = [
            hooks for module in model.modules() for hooks in (module._forward_hooks, module._forward_pre_hooks)
        ]

    def __bool__(self) -> bool:
        return any(self._hooks)


def readable_logits(model: Transformer, ids: Sequence[int], cache: KVCache, *, only_last: bool) -> Tensor:
    """Logits in float32 from the modules of `model`: (T, V), or (1, V) of the last token."""
    import torch

    tokens = torch.tensor([list(ids)], device=model.device)
    # Hooks are to see all tokens. Collecting them takes as long as a layer, which a longer text outweighs.
    shared = model.config.first_sharing < model.config.num_layers
    brief = only_last and len(ids) > 1 and shared and not Hooks(model)
    logits: Tensor = model(tokens, cache, only_last=only_last, brief=brief)
    return logits[0].float()


def readable_name(model: Transformer, reason: str) -> str:
    """The name of the readable model as a step, with the `reason` why no kernel runs."""
    name = f"readable model, {model.device.type}, {str(model.dtype).removeprefix('torch.')}"
    return f"{name} ({reason})" if reason else name
