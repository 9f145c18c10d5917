"""Texts that are generated at the same time: who reads each, and who computes the next token of all in one pass.

V is the vocabulary, R the texts of a pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from llmcli.device import one_thread
from llmcli.engine.context_limit import memory_for_text
from llmcli.errors import UsageError
from llmcli.kernels.base import READABLE_CHUNK, FastStep, RowStep, readable_path
from llmcli.model import KVCache, Transformer
from llmcli.model.cache.batched_kv_cache import BatchedKVCache

MOST_ROWS = 16
"""The most texts that go on together. With more, a pass costs in proportion to its rows on a CPU."""


class BatchBackend(Protocol):
    """Places for texts, each numbered, that are read one after another and go on together."""

    @property
    def size(self) -> int:
        """How many there are."""

    @property
    def path(self) -> str:
        """What computes, for people."""

    def read(self, row: int, ids: Sequence[int], expected: int) -> Tensor:
        """Let `row` be the text `ids`, which is to become `expected` tokens long; logits (V,) after its last."""

    def step(self, rows: Sequence[int], ids: Sequence[int]) -> Tensor:
        """Go on with a token in each of `rows`; logits (R, V) of what follows."""

    def leave(self, row: int) -> None:
        """The text of `row` is over."""


def make_rows(model: Transformer, step: FastStep | None, size: int | None, *, why_readable: str = "") -> BatchBackend:
    """Places for `size` texts, by default as many as can go on together and still be what each would be alone.

    Raises:
        UsageError: there cannot be so many.
    """
    if size is not None and not 1 <= size <= MOST_ROWS:
        raise UsageError(f"From 1 to {MOST_ROWS} texts can go on together, not {size}.")
    if isinstance(step, RowStep):
        return _FastRows(model, step, min(size or MOST_ROWS, step.most_rows))
    # In fewer bits another order of adding is enough to turn the choice between two tokens that are all but equal.
    alike = step is None and model.dtype is torch.float32
    size = size or (MOST_ROWS if alike else 1)
    return _ModelRows(model, size, why_readable) if size > 1 else _OneRow(model, step, why_readable)


class _FastRows:
    """Each text in a cache of its own, and one call for a token of each: bit for bit what each would get alone."""

    def __init__(self, model: Transformer, step: RowStep, size: int) -> None:
        self.size = size
        self._model, self._step = model, step
        self._caches = [model.new_cache() for _ in range(size)]

    @property
    def path(self) -> str:
        # Asked for when it is shown: the fast path may have given way to the readable model.
        return _together(self._step.name, self.size)

    def read(self, row: int, ids: Sequence[int], expected: int) -> Tensor:
        cache = self._caches[row]
        cache.truncate(0)
        return _read(self._model, self._step, ids, cache, expected)

    def step(self, rows: Sequence[int], ids: Sequence[int]) -> Tensor:
        # What torch has to do for it is little, and its other threads would wait busily where the fast path computes.
        caches = [self._caches[row] for row in rows]
        with one_thread(), memory_for_text(self._model, max(cache.length for cache in caches)):
            return self._step.forward_rows(ids, caches)

    def leave(self, row: int) -> None:
        pass


class _OneRow:
    """One text after another, in the passes of an engine."""

    size = 1

    def __init__(self, model: Transformer, step: FastStep | None, why_readable: str) -> None:
        self.path = step.name if step is not None else readable_path(model, why_readable)
        self._model, self._step = model, step
        self._cache = model.new_cache()

    def read(self, row: int, ids: Sequence[int], expected: int) -> Tensor:
        self._cache.truncate(0)
        return _read(self._model, self._step, ids, self._cache, expected)

    def step(self, rows: Sequence[int], ids: Sequence[int]) -> Tensor:
        return _read(self._model, self._step, ids, self._cache, self._cache.expected_length)[None]

    def leave(self, row: int) -> None:
        pass


class _ModelRows:
    """The readable model, whose passes always have as many rows, filled or not.

    So a text gets the same numbers whatever is beside it, and however many of several places there are. In a pass of
    one row, as in an engine, torch adds in another order, and experts of a mixture are not given as many rows each
    time: the last bit can differ.
    """

    def __init__(self, model: Transformer, size: int, why_readable: str) -> None:
        self.size = size
        self.path = _together(readable_path(model, why_readable), size)
        self._model = model
        self._cache = BatchedKVCache(model.config, MOST_ROWS, dtype=model.dtype, device=model.device)

    def read(self, row: int, ids: Sequence[int], expected: int) -> Tensor:
        own = self._model.new_cache(capacity=len(ids))
        logits = _read(self._model, None, ids, own, expected)
        self._cache.enter(row, own)
        return logits

    @torch.inference_mode()
    def step(self, rows: Sequence[int], ids: Sequence[int]) -> Tensor:
        with memory_for_text(self._model, max(self._cache.lengths)):
            return self._model.forward_rows(dict(zip(rows, ids, strict=True)), self._cache)[list(rows)]

    def leave(self, row: int) -> None:
        self._cache.leave(row)


@torch.inference_mode()
def _read(model: Transformer, step: FastStep | None, ids: Sequence[int], cache: KVCache, expected: int) -> Tensor:
    """Read tokens into a cache, in the pieces an engine reads them in; logits (V,) after the last."""
    cache.expected_length = expected
    size = READABLE_CHUNK if step is None else step.prefill_chunk
    with memory_for_text(model, len(ids)):
        if not cache.length:
            cache.reserve(len(ids))
        for start in range(0, len(ids), size):
            chunk = list(ids[start : start + size])
            if step is not None:
                logits = step.forward(chunk, cache)
            else:
                logits = model(torch.tensor([chunk], device=model.device), cache, only_last=True)[0]
        return logits[-1]


def _together(path: str, size: int) -> str:
    return f"{path}, {size} texts at a time" if size > 1 else path
