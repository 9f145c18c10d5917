"""The key-value caches of several texts that go on together, a token at a time, each with a length of its own.

Dimension letters: R texts, K kv heads, S room for positions, D head size.
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
    """Keys and values of every layer for R texts; each is a row of the same tensors.

    A text that has been read into a cache of its own enters, and all take the next token in the same pass. A row that
    has none takes part, but nobody looks at it: so there are always as many rows, and products of matrices have one
    shape, whichever texts are there. Layers with a window keep everything, and see what is inside it.
    """

    def __init__(
        self, config: ModelConfig, rows: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> None:
        self.lengths = [0] * rows
        """Tokens that have been read of each text."""
        self._expected = [0] * rows
        self._rows = torch.arange(rows, device=device)
        self.positions = torch.zeros_like(self._rows)
        """Where the next token of each text stands, (R,); as of `begin`."""
        heads, *widths = config.cached_widths
        self._layers = [
            [torch.empty((rows, heads, _SMALLEST_ROOM, width), dtype=dtype, device=device) for width in widths]
            for _ in config.layers
        ]

    def enter(self, row: int, cache: KVCache) -> None:
        """Let `row` be the text that `cache` (of one) holds."""
        self.leave(row)
        self._grow(cache.length)
        for layer, (keys, values, first) in zip(self._layers, cache.layers, strict=True):
            for kept, read in zip(layer, (keys, values), strict=True):
                kept[row, :, first : cache.length] = read[0, :, : cache.length - first]
        self.lengths[row], self._expected[row] = cache.length, cache.expected_length

    def leave(self, row: int) -> None:
        """Forget the text of `row`."""
        self.lengths[row] = self._expected[row] = 0

    def begin(self) -> None:
        """Make room for a token of each text."""
        self._grow(max(self.lengths) + 1)
        self.positions = torch.tensor(self.lengths, device=self._rows.device)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens' `keys` and `values` (1, K, R, D); return those of all positions, (R, K, S, D).

        What a token sees of them is what `spans` says.
        """
        for kept, new in zip(self._layers[layer], (keys, values), strict=True):
            kept[self._rows, :, self.positions] = new[0].transpose(0, 1)  # (R, K, D)
        all_keys, all_values = self._layers[layer]
        return all_keys, all_values

    def advance(self, rows: Iterable[int]) -> None:
        """Count the token of each of `rows` as read, after every layer has stored it; what others stored is void."""
        for row in rows:
            self.lengths[row] += 1

    def spans(self, layer: LayerConfig) -> KeySpans:
        """Which positions the next token of each text sees in such a layer."""
        return tuple(slice(layer.first_visible(length), length + 1) for length in self.lengths)

    def rotated_lengths(self) -> list[int]:
        """How long each text counts as, with its next token, for rotations that depend on that."""
        return [max(length + 1, expected) for length, expected in zip(self.lengths, self._expected, strict=True)]

    def _grow(self, length: int) -> None:
        room = self._layers[0][0].shape[2]
        if length <= room:
            return
        while room < length:
            room *= 2
        for layer in self._layers:
            # One layer at a time, so that there is never a second copy of more than one.
            layer[:] = [_with_room(kept, room) for kept in layer]


def _with_room(kept: Tensor, room: int) -> Tensor:
    larger = kept.new_empty((*kept.shape[:2], room, kept.shape[3]))
    larger[:, :, : kept.shape[2]] = kept
    return larger
