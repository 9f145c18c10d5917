"""What all fast paths share: protocols, their error, sizes of chunks, and the readable model that each stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from llmcli.kernels.sampling_filters import SamplingFilters, SamplingRequest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from llmcli.model import KVCache, Transformer

READABLE_CHUNK = 512
"""Tokens of a prompt that the readable model reads at a time: enough to keep the cores busy, and few enough that masks
and activations stay small and a signal is soon answered."""
DEVICE_CHUNK = 2048
"""The same on a CUDA device."""


class NoKernelError(Exception):
    """A fast path cannot run here, or not this model; the message is a short reason, without a full stop."""


class FastStep(Protocol):
    """What an engine asks of a fast path."""

    @property
    def name(self) -> str:
        """What runs, for people."""

    @property
    def prefill_chunk(self) -> int:
        """Into how many tokens at a time a long text is best divided: a signal is answered between them."""

    def forward(self, ids: Sequence[int], cache: KVCache, *, only_last: bool = True) -> Tensor:
        """Logits in float32 after each of `ids`, which continue what `cache` holds: (T, V), or (1, V) of the last."""


@runtime_checkable
class GreatestStep(FastStep, Protocol):
    """A fast path that looks for the greatest logit while logits are still at hand."""

    @property
    def greatest(self) -> tuple[int, float] | None:
        """The first of the greatest logits that the last pass gave, and what it is; None where it gave several rows.

        A logit that is not a number counts as the greatest.
        """


@runtime_checkable
class BurstStep(FastStep, Protocol):
    """A fast path that can choose tokens and go on with them by itself."""

    def chooses(self, filters: SamplingFilters) -> bool:
        """Whether it can choose by such filters."""

    def forward_burst(self, token: int, cache: KVCache, choosing: SamplingRequest) -> list[int]:
        """As many tokens after `token`, which continues what `cache` holds, as there are numbers to choose them by.

        Each is what the engine's `Sampler` chooses by its number, and all but the last are read. Fewer, but at least
        one, where one of the ends comes, or a signal that Python answers, or -1: logits are no finite numbers.
        """


@runtime_checkable
class RowStep(FastStep, Protocol):
    """A fast path that can go on with several texts at once."""

    @property
    def most_rows(self) -> int:
        """With how many."""

    def forward_rows(self, ids: Sequence[int], caches: Sequence[KVCache]) -> Tensor:
        """Logits in float32 (R, V) after the next token of each text: what `forward` gives for it, to the last bit."""


@runtime_checkable
class EachStep(FastStep, Protocol):
    """A fast path that can read several tokens of a text as if one by one."""

    @property
    def most_each(self) -> int:
        """How many."""

    def forward_each(self, ids: Sequence[int], cache: KVCache) -> Tensor:
        """Logits in float32 (T, V) after each of `ids`: what `forward` gives for one at a time, to the last bit."""


@runtime_checkable
class DeviceStep(FastStep, Protocol):
    """A fast path that can read a token which only the device knows."""

    def forward_unseen(self, token: Tensor, cache: KVCache) -> Tensor:
        """Logits in float32 (1, V) after `token` (1,), which continues what `cache` holds; nothing waits for either.

        They are good until the next pass. The token must be one of the vocabulary.
        """


def readable_path(model: Transformer, reason: str) -> str:
    """The readable model's name where a fast path would give its own, with the `reason` why there is none."""
    path = f"readable model, {model.device.type}, {str(model.dtype).removeprefix('torch.')}"
    return f"{path} ({reason})" if reason else path


def readable_logits(model: Transformer, ids: Sequence[int], cache: KVCache, *, only_last: bool) -> Tensor:
    """What a fast path gives for tokens that it leaves to the readable model."""
    import torch

    tokens = torch.tensor([list(ids)], device=model.device)
    logits: Tensor = model(tokens, cache, only_last=only_last)
    return logits[0].float()


class Hooks:
    """Whether someone looks into a model, or changes what it computes: then the readable model must run."""

    def __init__(self, model: nn.Module) -> None:
        # The dictionaries stay the same while hooks come and go; asked for at every token, so looked up once.
        self._hooks: list[Mapping[int, object]] = [
            hooks for module in model.modules() for hooks in (module._forward_hooks, module._forward_pre_hooks)
        ]

    def __bool__(self) -> bool:
        return any(self._hooks)
