"""KV caches of texts that are complete, kept so that a prompt that begins alike is read in part only.

Only such a part is reused that gives the reply the bits it would have without: passes over several tokens and over one
sum in different orders. So the reply of an earlier prompt is not reused, and of the prompt only whole chunks, or with
some kernels whole tiles (`StepCapabilities.prefill_tile`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from llmcli.model import KVCache, Transformer

# Tokens of a kept text that another may replace, as when a question is asked again in other words. If it would replace
# more, the two are different conversations with one system prompt, and the common part is copied.
_MOST_LOST = 64


@dataclass
class CachedText:
    """A cache, and the text in it."""

    cache: KVCache
    ids: list[int] = field(default_factory=list)
    """The tokens of the prompt whose keys and values the cache holds, without the reply."""

    def common(self, ids: Sequence[int]) -> int:
        """How many tokens at its beginning are those of `ids`."""
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, self.ids, strict=False)))


class KeptCaches:
    """Caches that no reply uses at the moment, the last used at the end."""

    def __init__(self, model: Transformer, chunk: int, most_bytes: int) -> None:
        """`chunk` is the number of tokens in which prompts are read; all caches together keep `most_bytes`."""
        self._model, self._chunk, self._most_bytes = model, chunk, most_bytes
        self._kept: list[CachedText] = []

    @property
    def nbytes(self) -> int:
        """Bytes that the kept caches reserve."""
        return sum(text.cache.nbytes for text in self._kept)

    def take(self, ids: Sequence[int], longest: int) -> tuple[CachedText, int]:
        """A cache for a prompt `ids` in a text of at most `longest` tokens, and how many of its tokens it holds."""
        best, held = None, 0
        for text in reversed(self._kept):
            usable = self._usable(text, ids, longest)
            if best is None or usable > held:
                best, held = text, usable
        if best is not None and held and len(best.ids) - held > _MOST_LOST:
            return self._copied(best, held, longest), held
        # A cache without a common beginning is another conversation's: it stays while there is memory.
        if best is None or (held == 0 and self.nbytes + best.cache.nbytes <= self._most_bytes):
            best = CachedText(self._model.new_cache())
        else:
            if held == 0:
                # The one that was used longest ago.
                best = self._kept[0]
            self._kept = [text for text in self._kept if text is not best]
        best.cache.truncate(held)
        best.cache.expected_length = longest
        del best.ids[held:]
        return best, held

    @staticmethod
    def _copied(text: CachedText, held: int, longest: int) -> CachedText:
        """A copy of the beginning of a text, which stays for its own conversation."""
        copied = CachedText(text.cache.beginning(held), text.ids[:held])
        copied.cache.expected_length = longest
        return copied

    def give_back(self, text: CachedText) -> None:
        """Keep a cache whose `ids` are set, and drop those used longest ago that do not fit."""
        self._kept.append(text)
        while self._kept and self.nbytes > self._most_bytes:
            del self._kept[0]

    def _usable(self, text: CachedText, ids: Sequence[int], longest: int) -> int:
        """How many whole chunks of `ids`, in tokens, `text` holds; the last token is always read, for its logits."""
        if not self._model.rotated_alike(text.cache.expected_length, longest):
            return 0
        length = min(text.common(ids), len(ids) - 1)
        while (whole := length // self._chunk * self._chunk) > 0:
            length = text.cache.reusable(whole)
            if length == whole:
                return whole
        return 0
