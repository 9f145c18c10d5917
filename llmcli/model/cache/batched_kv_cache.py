"""Key-value cache of a batch of texts of different lengths that are decoded together, a token each per step.

Dimension letters: R texts, K kv heads, S positions allocated, D head size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import torch
from torch import Tensor

from llmcli.model.cache.kv_cache import KVCache
from llmcli.model.config import LayerConfig, ModelConfig

_SMALLEST_ROOM = 256

KeySpans: TypeAlias = tuple[slice, ...]
"""For each of R texts, the positions in its cache that its next token attends to."""


class BatchedKVCache:
    """Keys and values of every layer for R texts; each text is a row of the same tensors.

    A text is prefilled into a `KVCache` and then copied into a row by `enter`; from then on each decode step adds a
    token to every row. Rows without a text are computed too and their results ignored, so that matrix products always
    have the same shape. Layers with a sliding window keep all positions and attend to those in the window.
    """

    def __init__(
        self, config: ModelConfig, rows: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> None:
        self.lengths = [0] * rows
        """Tokens of each text in the cache."""
        self._expected = [0] * rows
        self._rows = torch.arange(rows, device=device)
        self.positions = torch.zeros_like(self._rows)
        """Position of the next token of each text, (R,); set by `begin`."""
        heads, *widths = config.cached_widths
        self._layers = [
            [torch.empty((rows, heads, _SMALLEST_ROOM, width), dtype=dtype, device=device) for width in widths]
            for _ in config.layers
        ]

    def enter(self, row: int, cache: KVCache) -> None:
        """Copy the text in `cache` (of batch size 1) into `row`."""
        self.leave(row)
        self._grow(cache.length)
        for layer, (keys, values, first) in zip(self._layers, cache.layers, strict=True):
            for kept, read in zip(layer, (keys, values), strict=True):
                kept[row, :, first : cache.length] = read[0, :, : cache.length - first]
        self.lengths[row], self._expected[row] = cache.length, cache.expected_length

    def leave(self, row: int) -> None:
        """Drop the text of `row`."""
        self.lengths[row] = self._expected[row] = 0

    def begin(self) -> None:
        """Make room for the next token of each text, and set `positions`."""
        self._grow(max(self.lengths) + 1)
        self.positions = torch.tensor(self.lengths, device=self._rows.device)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens' `keys` and `values` (1, K, R, D); return those of all positions, (R, K, S, D).

        `spans` gives the positions that each token attends to.
        """
        for kept, new in zip(self._layers[layer], (keys, values), strict=True):
            kept[self._rows, :, self.positions] = new[0].transpose(0, 1)  # (R, K, D)
        all_keys, all_values = self._layers[layer]
        return all_keys, all_values

    def advance(self, rows: Iterable[int]) -> None:
        """Count the new token of each of `rows`, after every layer has stored it; other rows' tokens are dropped."""
        for row in rows:
            self.lengths[row] += 1

    def spans(self, layer: LayerConfig) -> KeySpans:
        """The positions that the next token of each text attends to in a layer of this kind."""
        return tuple(slice(layer.first_visible(length), length + 1) for length in self.lengths)

    def rotated_lengths(self) -> list[int]:
        """Each text's length in tokens, with its next token, for rotations that depend on the length."""
        return [max(length + 1, expected) for length, expected in zip(self.lengths, self._expected, strict=True)]

    def _grow(self, length: int) -> None:
        room = self._layers[0][0].shape[2]
        if length <= room:
            return
        while room < length:
            room *= 2
        for layer in self._layers:
            # One layer at a time, so that only one layer is ever in memory twice.
            layer[:] = [_with_room(kept, room) for kept in layer]


def _with_room(kept: Tensor, room: int) -> Tensor:
    larger = kept.new_empty((*kept.shape[:2], room, kept.shape[3]))
    larger[:, :, : kept.shape[2]] = kept
    return larger
