"""A reply whose tokens come a few at a time: a fast path chooses them and goes on by itself.

Between two passes over a small model's weights everything else has left the processor's caches. To look at each token
before the next takes a tenth of its time, most of it spent waiting for memory (measured: 0.33 ms of 3.6; nothing of it
is left but 0.03 ms where no weights are read in between). So nobody looks for a moment too short to be noticed, which a
signal ends, and of a large model, of which one pass takes longer, at every token.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Sequence

from llmcli.engine.prefix_cache import PrefixCache
from llmcli.engine.sampler import Sampler, check_chosen

# For so long, in seconds, nobody looks: text appears thirty times a second.
UNSEEN_S = 1 / 30
_MOST = 8


class MultiStepDecoder:
    """The tokens of a reply after the first."""

    def __init__(
        self,
        prefix_cache: PrefixCache,
        sampler: Sampler,
        *,
        longest: int,
        ends: Collection[int],
        unseen_s: float = UNSEEN_S,
    ) -> None:
        """The text becomes `longest` tokens long at most, and one of `ends` ends it.

        Tokens come together as far as they take no longer than `unseen_s` seconds.
        """
        self._prefix_cache, self._sampler, self._longest, self._ends = prefix_cache, sampler, longest, tuple(ends)
        self._unseen: deque[int] = deque()
        self._count, self._unseen_s = 1, unseen_s
        self.seconds_each = 0.0
        """What each of the last tokens took."""

    @property
    def is_ahead(self) -> bool:
        """Whether the next token is there already."""
        return bool(self._unseen)

    def next(self, ids: Sequence[int], most: int = _MOST) -> int:
        """The token that follows `ids`, whose last one is what was said last, and `most` at a time.

        Raises:
            NotFiniteError: the model's output is not a number.
        """
        if not self._unseen:
            self._unseen.extend(self._chosen(ids, min(self._count, most)))
        return check_chosen(self._unseen.popleft())

    def end(self, ids: Sequence[int]) -> None:
        """The text is `ids`: what was read beyond them is forgotten."""
        self._prefix_cache.accept_tokens(ids)

    def _chosen(self, ids: Sequence[int], count: int) -> list[int]:
        started = time.perf_counter()
        count = min(count, self._prefix_cache.multi_step_room(len(ids)), self._longest - len(ids))
        if count < 1:
            chosen = [self._sampler.choose(self._prefix_cache.read(ids), ids)]
        else:
            uniforms = self._sampler.uniforms(count)
            chosen = self._prefix_cache.multi_step(ids, self._sampler.params, uniforms, self._ends)
            self._sampler.give_back(uniforms[len(chosen) :])
        self.seconds_each = (time.perf_counter() - started) / len(chosen)
        self._count = max(1, min(_MOST, int(self._unseen_s / self.seconds_each)))
        return chosen
