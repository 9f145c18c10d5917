"""Prefill: read a text into a KV cache, a chunk at a time. V is the vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from torch import Tensor

from llmcli.kernels.base import FastStep
from llmcli.model import KVCache

LAST_CHUNK = 16
"""Tokens that are read alone at the end of a prompt if the cache needs marks.

Templates write something there behind the last message, for example the header of the reply and an opened thought, and
often something else once the reply is known.
"""

PrefillProgress: TypeAlias = Callable[[int, int], None]
"""Called with the number of tokens read so far and the number of all tokens, first before any is read."""


def read_chunks(
    step: FastStep, cache: KVCache, ids: Sequence[int], *, chunk: int | None = None, only_last: bool = True
) -> Iterator[Tensor]:
    """Read what `cache` does not hold yet of `ids`, `chunk` tokens at a time, by default the prefill chunk of `step`.

    Yields the logits (1, V) after the last token of each chunk, or those after all its tokens (t, V).
    """
    size = chunk or step.prefill_chunk
    for start in range(cache.length, len(ids), size):
        yield step.forward(ids[start : start + size], cache, only_last=only_last)


def prefill(
    step: FastStep,
    cache: KVCache,
    ids: Sequence[int],
    progress: PrefillProgress | None = None,
    *,
    is_prompt: bool = True,
) -> Tensor:
    """Read what `cache` does not hold yet of `ids`, at least one token; logits (V,) after the last.

    If the cache needs marks, the last tokens of a prompt are a separate chunk, and each chunk ends with a mark: texts
    that have only a beginning in common with this one can go back to it.
    """
    tell = progress or (lambda done, total: None)
    tell(cache.length, len(ids))
    marked = is_prompt and cache.needs_marks
    for end in (max(0, len(ids) - LAST_CHUNK), len(ids)) if marked else (len(ids),):
        for logits in read_chunks(step, cache, ids[:end]):  # noqa: B007
            tell(cache.length, len(ids))
            if marked:
                cache.mark()
    return logits[-1]
