"""Multi-step decoding: the C kernel chooses several tokens and reads them without Python in between.

Between two passes of a small model, other code evicts its weights from the processor's caches. Handling each token in
Python before the next pass takes a tenth of the time, most of it waiting for memory (measured: 0.33 ms of 3.6; 0.03 ms
if no weights are read in between). So the kernel returns several tokens at once, as many as it computes before the
delay becomes visible or a signal arrives. If a single pass takes longer than that, it returns one token at a time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from llmcli.engine.decoders.single_step import SingleStepDecoder
from llmcli.engine.decoders.token_source import TokenChoice
from llmcli.engine.interrupt import Interruption
from llmcli.engine.prefill import PrefillProgress
from llmcli.engine.prefix_cache import PrefixCache
from llmcli.engine.sampling.sampler import Sampler, check_chosen

MULTI_STEP_S = 1 / 30
"""Seconds of computing before tokens are shown: text then appears thirty times a second."""
_MOST = 8


class MultiStepDecoder:
    """Chooses a few tokens at a time, as many as the step computes in `multi_step_s` seconds."""

    def __init__(
        self,
        single: SingleStepDecoder,
        prefix_cache: PrefixCache,
        sampler: Sampler,
        interruption: Interruption,
        *,
        longest: int,
        stop_ids: Collection[int],
        multi_step_s: float = MULTI_STEP_S,
    ) -> None:
        """The text becomes `longest` tokens long at most, and each of `stop_ids` ends it."""
        self._single, self._prefix_cache, self._sampler = single, prefix_cache, sampler
        self._interruption, self._longest, self._stop_ids = interruption, longest, tuple(stop_ids)
        self._chosen: deque[int] = deque()
        self._count, self._multi_step_s = 1, multi_step_s
        self.seconds_each = 0.0
        """Seconds that each of the last tokens took."""

    @property
    def is_ahead(self) -> bool:
        """Whether the next token has been chosen already."""
        return bool(self._chosen)

    def begin(self, ids: Sequence[int], progress: PrefillProgress | None = None) -> None:
        """See `TokenSource`."""
        self._single.begin(ids, progress)

    def next(self, ids: Sequence[int], most: int = _MOST) -> TokenChoice:
        """See `TokenSource`; if none has been chosen yet, at most `most` tokens are chosen now."""
        if self._single.is_first:
            return self._single.next(ids)
        if not self._chosen:
            started = time.perf_counter()
            with self._interruption.computing():
                self._chosen.extend(self._choose(ids, min(self._count, most, self._longest - len(ids))))
            self._measure(started, len(self._chosen))
        return TokenChoice(check_chosen(self._chosen.popleft()))

    def end(self, ids: Sequence[int]) -> None:
        """See `TokenSource`."""
        self._prefix_cache.accept_tokens(ids)

    def stats(self) -> Mapping[str, Any]:
        """See `TokenSource`."""
        return {}

    def _choose(self, ids: Sequence[int], count: int) -> list[int]:
        uniforms = self._sampler.uniforms(count)
        chosen = self._prefix_cache.multi_step(ids, self._sampler.params, uniforms, self._stop_ids)
        self._sampler.give_back(uniforms[len(chosen) :])
        return chosen

    def _measure(self, started: float, tokens: int) -> None:
        self.seconds_each = (time.perf_counter() - started) / tokens
        self._count = max(1, min(_MOST, int(self._multi_step_s / self.seconds_each)))
