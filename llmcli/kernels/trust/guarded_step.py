"""The C kernel's step with a fallback to the readable model, for an error in the first pass of a model.

The check on tiny models cannot cover everything: sizes that only this model has, or memory that only it needs. A failed
call leaves the cache unchanged, so the readable model repeats the same pass, and no token is lost.

Dimension letters: R texts of a batch, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from llmcli.device import is_out_of_memory
from llmcli.errors import LlmcliError
from llmcli.kernels.base import readable_logits, readable_path
from llmcli.kernels.cpu.step import CpuStep
from llmcli.kernels.cuda.sampler import Kind, choose, settings_of
from llmcli.kernels.cuda.support import first_line
from llmcli.kernels.sampling_filters import SamplingFilters, SamplingRequest
from llmcli.model import KVCache, Transformer

_Result = TypeVar("_Result")


class GuardedStep:
    """A `CpuStep` that is replaced by the readable model if its first pass fails."""

    def __init__(self, step: CpuStep, model: Transformer, failed: Callable[[str], None]) -> None:
        """`failed` is called with the kernel's error."""
        self._step, self._model, self._failed = step, model, failed
        self._proven = False
        self._error = ""
        self.most_rows, self.most_each = step.most_rows, step.most_each

    @property
    def prefill_chunk(self) -> int:
        """See `FastStep`."""
        return self._step.prefill_chunk

    @property
    def name(self) -> str:
        """The path's name, shown to users."""
        return readable_path(self._model, f"the C kernel failed: {self._error}") if self._error else self._step.name

    @property
    def greatest(self) -> tuple[int, float] | None:
        """See `GreatestStep`."""
        return None if self._error else self._step.greatest

    def forward(self, ids: Sequence[int], cache: KVCache, *, only_last: bool = True) -> Tensor:
        """See `FastStep`."""
        if self._proven:
            return self._step.forward(ids, cache, only_last=only_last)
        return self._first(
            lambda: self._step.forward(ids, cache, only_last=only_last),
            lambda: self._readable(ids, cache, only_last=only_last),
            [cache],
            proves=self._step.covers(len(ids)),
        )

    def forward_rows(self, ids: Sequence[int], caches: Sequence[KVCache]) -> Tensor:
        """See `RowStep`."""
        if self._proven:
            return self._step.forward_rows(ids, caches)
        return self._first(
            lambda: self._step.forward_rows(ids, caches),
            lambda: torch.cat([self._readable([token], cache) for token, cache in zip(ids, caches, strict=True)]),
            caches,
        )

    def forward_each(self, ids: Sequence[int], cache: KVCache) -> Tensor:
        """See `EachStep`."""
        if self._proven:
            return self._step.forward_each(ids, cache)
        return self._first(
            lambda: self._step.forward_each(ids, cache),
            lambda: torch.cat([self._readable([token], cache) for token in ids]),
            [cache],
        )

    def chooses(self, filters: SamplingFilters) -> bool:
        """See `BurstStep`."""
        return not self._error and self._step.chooses(filters)

    def forward_burst(self, token: int, cache: KVCache, choosing: SamplingRequest) -> list[int]:
        """See `BurstStep`; chooses a single token once the kernel has failed."""
        if self._proven:
            return self._step.forward_burst(token, cache, choosing)
        return self._first(
            lambda: self._step.forward_burst(token, cache, choosing),
            lambda: [_chosen(self._readable([token], cache), choosing)],
            [cache],
        )

    @torch.inference_mode()
    def _readable(self, ids: Sequence[int], cache: KVCache, *, only_last: bool = True) -> Tensor:
        """Logits (T, V) or (1, V) by the readable model."""
        return readable_logits(self._model, ids, cache, only_last=only_last)

    def _first(
        self,
        fast: Callable[[], _Result],
        slow: Callable[[], _Result],
        caches: Sequence[KVCache],
        *,
        proves: bool = True,
    ) -> _Result:
        """Call `fast`, or `slow` from the first failure on.

        With `proves`, success ends the guard; it is False for passes that the kernel leaves to the readable model.
        """
        if self._error:
            return slow()
        before = [cache.length for cache in caches]
        try:
            result = fast()
        except LlmcliError:
            raise
        except Exception as error:
            # Part of the pass is in the cache, so it cannot be repeated.
            if is_out_of_memory(error) or before != [cache.length for cache in caches]:
                raise
            try:
                result = slow()
            except Exception:
                # The readable model fails too: the input is at fault, not the kernel.
                raise error from None
            self._error = first_line(error)
            self._failed(self._error)
            return result
        self._proven = proves
        return result


def _chosen(logits: Tensor, choosing: SamplingRequest) -> int:
    """The token sampled from logits (1, V) with the first random number of `choosing`."""
    own = logits[0, : choosing.vocabulary]
    number = torch.tensor(choosing.uniforms[:1], dtype=torch.float64)
    kind = Kind.of(choosing.filters, len(own))
    return int(choose(own, torch.zeros(len(own), dtype=torch.bool), number, settings_of(choosing.filters), kind))
