"""KV caches of the texts of a batch, and the passes that extend them. V is the vocabulary, R texts in a pass."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from llmcli.engine.batch.row_steps import RowSteps
from llmcli.engine.context_limit import memory_for_text
from llmcli.engine.prefill import prefill
from llmcli.errors import UsageError
from llmcli.kernels.base import FastStep
from llmcli.model import KVCache, Transformer

MOST_ROWS = 32
"""The most texts that are extended together: with more, a pass costs in proportion to its rows on a CPU."""


class BatchBackend:
    """Numbered rows, each with a KV cache for one text.

    If the step can extend several texts in a pass, each text gets the same logits as alone, to the last bit. With other
    steps there is one row, and texts are generated one after another.
    """

    def __init__(self, model: Transformer, step: FastStep, size: int | None = None) -> None:
        """`size` rows, or fewer if `step` cannot extend that many texts in a pass; by default as many as it can.

        Raises:
            UsageError: `size` is not from 1 to `MOST_ROWS`.
        """
        if size is not None and not 1 <= size <= MOST_ROWS:
            raise UsageError(f"From 1 to {MOST_ROWS} texts can be generated together, not {size}.")
        self.size = min(size or MOST_ROWS, step.capabilities.most_rows)
        """How many rows there are."""
        self._model, self._step = model, step
        self._caches = [model.new_cache() for _ in range(self.size)]

    @property
    def path(self) -> str:
        """The name of the step that computes, for display."""
        # Not stored: a kernel that fails is replaced by the readable model, which has another name.
        return f"{self._step.name}, {self.size} texts at a time" if self.size > 1 else self._step.name

    def read(self, row: int, ids: Sequence[int], longest: int) -> Tensor:
        """Read the text `ids`, which can have `longest` tokens, into `row`; logits (V,) after its last token."""
        cache = self._caches[row]
        cache.truncate(0)
        cache.expected_length = longest
        with memory_for_text(self._model, len(ids)):
            cache.reserve(len(ids))
            return prefill(self._step, cache, ids)

    def steps(self, vocab_size: int) -> RowSteps:
        """What extends the texts, by tokens below `vocab_size`."""
        return RowSteps(self._model, self._step, vocab_size)

    def cache(self, row: int) -> KVCache:
        """The cache of a row's text."""
        return self._caches[row]
