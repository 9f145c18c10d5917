"""A reply that goes on while nobody looks: the pass for the next token begins before this one has been seen.

A token is chosen where its logits are computed, and stays there for the next pass; here it arrives one pass late. So a
GPU never waits for whoever asks it, and at most one pass is made in vain, when a token turns out to end the reply.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmcli.engine.prefix_cache import PrefixCache
from llmcli.engine.sampler import Sampler, check_chosen


class PipelinedDecoder:
    """The tokens of a reply after the first."""

    def __init__(self, prefix_cache: PrefixCache, sampler: Sampler, *, longest: int) -> None:
        """The text becomes `longest` tokens long at most."""
        self._prefix_cache, self._sampler, self._longest = prefix_cache, sampler, longest
        # The length of the text with all tokens that have been chosen, seen or not; 0: not begun.
        self._length = 0

    def next(self, ids: Sequence[int]) -> int:
        """The token that follows `ids`, whose last one is what was said last.

        Raises:
            NotFiniteError: the model's output is not a number.
        """
        if not self._prefix_cache.can_extend(len(ids)):
            self.end(ids[:-1])
            return self._sampler.choose(self._prefix_cache.read(ids), ids)
        if not self._length:
            self._prefix_cache.begin_pipeline(self._sampler.params, ids)
            self._length = len(ids)
        while self._length < min(len(ids) + 2, self._longest) and self._prefix_cache.can_extend(self._length):
            self._prefix_cache.launch_step(*self._sampler.uniforms(1))
            self._length += 1
        return check_chosen(self._prefix_cache.await_token())

    def end(self, ids: Sequence[int]) -> None:
        """The text is `ids`: what was read beyond them is forgotten."""
        if self._length:
            self._length = 0
            self._prefix_cache.accept_tokens(ids)
