"""The C kernel's step, replaced by the readable model should the first pass of a model raise an error.

The check on tiny models cannot find every fault: a size that only this model has, or memory that only it needs. A pass
that the kernel refuses leaves the cache as it was, so the readable model repeats that pass and no token is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from torch import Tensor

from llmcli.device import is_out_of_memory
from llmcli.errors import LlmcliError
from llmcli.kernels.base import FastStep, StepCapabilities
from llmcli.kernels.cpu.step import CpuStep
from llmcli.kernels.cuda.support import first_line
from llmcli.kernels.readable_step import ReadableStep
from llmcli.kernels.sampling_filters import SamplingRequest
from llmcli.model import KVCache, Transformer

_Result = TypeVar("_Result")


class GuardedStep(FastStep):
    """A `CpuStep` until its first pass fails, and from then on a `ReadableStep`."""

    def __init__(self, step: CpuStep, model: Transformer, failed: Callable[[str], None]) -> None:
        """`failed` is called with the kernel's error."""
        self._step, self._model, self._failed = step, model, failed
        self._proven = False
        self._instead: ReadableStep | None = None
        self._capabilities: StepCapabilities = step.capabilities

    @property
    def prefill_chunk(self) -> int:
        """See `FastStep`."""
        return self._step.prefill_chunk

    @property
    def name(self) -> str:
        """What computes, for people."""
        return (self._instead or self._step).name

    @property
    def capabilities(self) -> StepCapabilities:
        """See `FastStep`."""
        return self._capabilities

    @property
    def greatest(self) -> tuple[int, float] | None:
        """See `FastStep`."""
        return None if self._instead is not None else self._step.greatest

    def forward(self, ids: Sequence[int], cache: KVCache, *, only_last: bool = True) -> Tensor:
        """See `FastStep`."""
        if self._proven:
            return self._step.forward(ids, cache, only_last=only_last)
        proves = self._step.covers(len(ids))
        return self._first(lambda step: step.forward(ids, cache, only_last=only_last), [cache], proves=proves)

    def forward_rows(self, ids: Sequence[int], caches: Sequence[KVCache]) -> Tensor:
        """See `FastStep`."""
        if self._proven:
            return self._step.forward_rows(ids, caches)
        return self._first(lambda step: step.forward_rows(ids, caches), caches)

    def forward_each(self, ids: Sequence[int], cache: KVCache) -> Tensor:
        """See `FastStep`."""
        if self._proven:
            return self._step.forward_each(ids, cache)
        return self._first(lambda step: step.forward_each(ids, cache), [cache])

    def forward_multi_step(self, token: int, cache: KVCache, request: SamplingRequest) -> list[int]:
        """See `FastStep`; a single token once the kernel has failed."""
        if self._proven:
            return self._step.forward_multi_step(token, cache, request)
        return self._first(lambda step: step.forward_multi_step(token, cache, request), [cache])

    def forward_rows_multi_step(
        self, ids: Sequence[int], caches: Sequence[KVCache], requests: Sequence[SamplingRequest | None]
    ) -> list[list[int] | Tensor]:
        """See `FastStep`; a single token of each text once the kernel has failed."""
        if self._proven:
            return self._step.forward_rows_multi_step(ids, caches, requests)
        return self._first(lambda step: step.forward_rows_multi_step(ids, caches, requests), caches)

    def _first(self, run: Callable[[FastStep], _Result], caches: Sequence[KVCache], *, proves: bool = True) -> _Result:
        """`run` with the kernel or, from its first failure on, the readable model.

        `proves` says that the kernel itself makes the pass, which shows that it can.
        """
        if self._instead is not None:
            return run(self._instead)
        before = [cache.length for cache in caches]
        try:
            result = run(self._step)
        except LlmcliError:
            raise
        except Exception as error:
            # A text that has been read in part cannot be read again by the other step.
            if is_out_of_memory(error) or before != [cache.length for cache in caches]:
                raise
            line = first_line(error)
            instead = ReadableStep(self._model, f"the C kernel failed: {line}")
            try:
                result = run(instead)
            except Exception:
                # The pass itself is at fault, not the kernel.
                raise error from None
            self._instead = instead
            self._capabilities = replace(self._capabilities, sampling_filters=frozenset(), prefill_tile=0)
            self._failed(line)
            return result
        self._proven = proves
        return result
