"""Asynchronous GPU decoding: the pass for token n + 1 is launched before token n reaches the host.

A token is chosen on the device, where its logits are, and stays there for the next pass; the host receives it one pass
late. So the GPU never waits for the host, and at most one pass is wasted, when a token turns out to end the reply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmcli.engine.decoders.single_step import SingleStepDecoder
from llmcli.engine.decoders.token_source import TokenChoice
from llmcli.engine.interrupt import Interruption
from llmcli.engine.prefill import PrefillProgress
from llmcli.engine.prefix_cache import PrefixCache
from llmcli.engine.sampling.sampler import Sampler, check_chosen


class PipelinedDecoder:
    """Keeps one pass running on the device beyond the token that the host knows."""

    def __init__(
        self,
        single: SingleStepDecoder,
        prefix_cache: PrefixCache,
        sampler: Sampler,
        interruption: Interruption,
        *,
        longest: int,
    ) -> None:
        """The text becomes `longest` tokens long at most."""
        self._single, self._prefix_cache, self._sampler = single, prefix_cache, sampler
        self._interruption, self._longest = interruption, longest
        # Tokens of the text with all that were chosen, whether or not the host has received them; 0: not begun.
        self._length = 0

    def begin(self, ids: Sequence[int], progress: PrefillProgress | None = None) -> None:
        """See `TokenSource`."""
        self._single.begin(ids, progress)

    def next(self, ids: Sequence[int]) -> TokenChoice:
        """See `TokenSource`."""
        if self._single.is_first:
            return self._single.next(ids)
        with self._interruption.computing():
            return TokenChoice(check_chosen(self._token(ids)))

    def end(self, ids: Sequence[int]) -> None:
        """See `TokenSource`."""
        if self._length:
            self._length = 0
            self._prefix_cache.accept_tokens(ids)

    def stats(self) -> Mapping[str, Any]:
        """See `TokenSource`."""
        return {}

    def _token(self, ids: Sequence[int]) -> int:
        if not self._length:
            self._prefix_cache.begin_pipeline(self._sampler.params, ids)
            self._length = len(ids)
        while self._length < min(len(ids) + 2, self._longest):
            self._prefix_cache.launch_step(*self._sampler.uniforms(1))
            self._length += 1
        return self._prefix_cache.await_token()
