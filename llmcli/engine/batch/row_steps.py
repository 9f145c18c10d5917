"""Multi-step decoding of several texts: a kernel chooses a few tokens of each without Python in between.

Python takes as long for a token of a batch as the kernel: less where it gets several tokens of each text at a time.
V is the vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcli.device import one_thread
from llmcli.engine.context_limit import memory_for_text
from llmcli.engine.decoders.multi_step import MULTI_STEP_S
from llmcli.engine.sampling.sampler import Sampler
from llmcli.kernels.base import FastStep
from llmcli.kernels.sampling_filters import SamplingRequest
from llmcli.model import KVCache, Transformer

# Tokens to reserve ahead in a cache: reserving costs as much time as several tokens.
_RESERVED_AHEAD = 256
_MOST = 8


@dataclass(frozen=True)
class RowText:
    """A text of a batch whose next tokens are wanted."""

    ids: Sequence[int]
    """All but the last are in the cache."""
    cache: KVCache
    sampler: Sampler
    longest: int
    """The most tokens that the text can have."""
    stop_ids: Collection[int] = ()
    """Tokens after which it ends."""
    wants_logits: bool = False
    """Whether the caller chooses its tokens, from logits."""


class RowSteps:
    """Extends texts by as many tokens as the step computes in `multi_step_s` seconds."""

    def __init__(
        self, model: Transformer, step: FastStep, vocab_size: int, *, multi_step_s: float = MULTI_STEP_S
    ) -> None:
        """Only tokens below `vocab_size` are chosen."""
        self._model, self._step, self._vocab_size = model, step, vocab_size
        self._count, self._multi_step_s = 1, multi_step_s

    @torch.inference_mode()
    def next(self, texts: Sequence[RowText], most: int = _MOST) -> list[list[int] | Tensor]:
        """The next tokens of each text, at most `most`, or logits (V,) if its sampling needs these.

        All tokens but the last are read. A text has fewer than others after one of its stop tokens, or after -1, which
        stands for logits that are not finite. If one needs logits, the others get one token.

        Raises:
            NotFiniteError: the logits of the only text are not finite.
        """
        chosen = [not text.wants_logits and self._step.capabilities.chooses(text.sampler.params) for text in texts]
        count = min(self._count, most) if all(chosen) else 1
        limits = [min(count, text.longest - len(text.ids)) for text in texts]
        ends = [len(text.ids) + limit - 1 for text, limit in zip(texts, limits, strict=True)]
        requests = [
            self._request(text, limit) if by_kernel else None
            for text, limit, by_kernel in zip(texts, limits, chosen, strict=True)
        ]
        started = time.perf_counter()
        with memory_for_text(self._model, max(ends)):
            for text, end in zip(texts, ends, strict=True):
                text.cache.reserve(max(end, min(text.longest, end + _RESERVED_AHEAD)))
            found = self._computed([text.ids[-1] for text in texts], [text.cache for text in texts], requests)
        most_made = max((len(each) for each in found if isinstance(each, list)), default=1)
        each_s = (time.perf_counter() - started) / most_made
        self._count = max(1, min(_MOST, int(self._multi_step_s / each_s)))
        for text, request, tokens in zip(texts, requests, found, strict=True):
            if request is not None:
                text.sampler.give_back(request.uniforms[len(tokens) :])
        return [each if isinstance(each, list) else each[: self._vocab_size] for each in found]

    def _request(self, text: RowText, count: int) -> SamplingRequest:
        sampler = text.sampler
        return SamplingRequest(sampler.params, sampler.uniforms(count), self._vocab_size, tuple(text.stop_ids))

    def _computed(
        self, last: Sequence[int], caches: Sequence[KVCache], requests: Sequence[SamplingRequest | None]
    ) -> list[list[int] | Tensor]:
        """The result of the step; logits may be of more tokens than the vocabulary has."""
        if len(last) == 1:
            if requests[0] is None:
                return [self._step.forward(last, caches[0])[0]]
            return [self._step.forward_multi_step(last[0], caches[0], requests[0])]
        # Torch does little in such a pass, and its threads would compete with those of the kernel.
        with one_thread():
            if any(requests):
                return self._step.forward_rows_multi_step(last, caches, requests)
            return list(self._step.forward_rows(last, caches))
