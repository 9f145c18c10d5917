"""What a layer keeps for compressed blocks: their rows, and values and gates of tokens whose block is not complete.

A block's row depends on the tokens up to its end only. So going back drops rows from the end on, and needs nothing else
but the values and gates of the last tokens, which are kept by position, like keys of attention with a window.

Dimension letters: B batch, T new tokens, S tokens, N blocks, D size of a row, E size of a key of the index, W values of
a token: those of all sets, for rows and for keys of the index.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from llmcli.model.cache.segment import Allocate, CacheSegment
from llmcli.model.shared_row_config import BlocksConfig


class BlockCache(NamedTuple):
    """The memory of one layer. Growing makes a new one: an interruption leaves the old one as it is."""

    blocks: BlocksConfig
    inputs: CacheSegment
    """By token: values as keys and gates as values, (B, 1, size, W)."""
    entries: CacheSegment
    """By block: rows as keys (B, 1, size, D), and keys of the index as values (B, 1, size, E)."""

    @property
    def fits(self) -> int:
        """Tokens of a text for which there is memory."""
        return min(self.inputs.end, (self.entries.end + 1) * self.blocks.rate - 1)

    @property
    def nbytes(self) -> int:
        """Bytes reserved, used or not."""
        return self.inputs.nbytes + self.entries.nbytes

    def append_inputs(self, length: int, values: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
        """Store `values` and `gates` (B, T, W) of the tokens from `length` on; return those needed, (B, S, W)."""
        self.inputs.write(length, values[:, None], gates[:, None])
        return self.read_inputs(self.blocks.first_needed(length), length + values.shape[1])

    def read_inputs(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Values and gates of the tokens from `start` to `end`, (B, S, W)."""
        values, gates = self.inputs.read(start, end)
        return values[:, 0], gates[:, 0]

    def append_entries(self, length: int, rows: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Store rows (B, 1, N, D) and keys of the index (B, 1, N, E) of the blocks that end after `length` tokens.

        Returns those of all blocks of the text.
        """
        first = self.blocks.complete(length)
        self.entries.write(first, rows, keys)
        return self.entries.read(0, first + rows.shape[2])

    def with_room(self, length: int, end: int, rewind: int, steady: int, limit: int, allocate: Allocate) -> BlockCache:
        """The memory with room for a text of `end` tokens, of which `length` are read.

        It can go back `rewind` tokens. `steady` is the most tokens that inputs are ever kept for besides those needed,
        `limit` the longest text.
        """
        inputs, entries = self.inputs, self.entries
        if end > inputs.end:
            first = max(inputs.first, self.blocks.first_needed(max(0, length - rewind)))
            most = min(limit, self.blocks.sets * self.blocks.rate + steady)
            size = max(end - first, min(2 * inputs.keys.shape[2], most))
            inputs = inputs.moved(first, length, size, allocate)
        if (count := self.blocks.complete(end)) > entries.end:
            size = max(count, min(2 * entries.end, self.blocks.complete(limit)))
            entries = entries.moved(0, self.blocks.complete(length), size, allocate)
        return self._replace(inputs=inputs, entries=entries)

    def emptied(self) -> BlockCache:
        """The same memory for a new text."""
        return self._replace(inputs=self.inputs._replace(first=0))

    def copied(self, length: int, allocate: Allocate) -> BlockCache:
        """A copy, for the first `length` tokens of the text."""
        held, kept = self.inputs, self.blocks.complete(length)
        return self._replace(
            inputs=held.moved(held.first, held.end, held.keys.shape[2], allocate),
            entries=self.entries.moved(0, kept, max(1, kept), allocate),
        )

    def holds(self, length: int) -> bool:
        """Whether there are the values and gates that token number `length`, counted from 0, needs."""
        return self.inputs.first <= self.blocks.first_needed(length)

    def tail(self, length: int) -> tuple[Tensor, Tensor]:
        """Copies of the values and gates that token number `length` needs, (B, 1, S, W)."""
        values, gates = self.inputs.read(self.blocks.first_needed(length), length)
        return values.clone(), gates.clone()

    def restored(self, length: int, tail: tuple[Tensor, Tensor]) -> BlockCache:
        """The memory for a text of `length` tokens, with the `tail` of that place."""
        inputs = self.inputs._replace(first=self.blocks.first_needed(length))
        inputs.write(inputs.first, *tail)
        return self._replace(inputs=inputs)

    def written_at(self, position: int) -> list[tuple[Tensor, Tensor]]:
        """What reading the token at `position` overwrites: views of keys and values."""
        places = [self.inputs.read(position, position + 1)]
        if (position + 1) % self.blocks.rate == 0:
            places.append(self.entries.read(position // self.blocks.rate, position // self.blocks.rate + 1))
        return places


def new_block_cache(
    blocks: BlocksConfig, sizes: tuple[int, int], *, batch: int, capacity: int, dtype: torch.dtype, allocate: Allocate
) -> BlockCache:
    """Memory for a text of `capacity` tokens; `sizes` are D and E."""
    width = blocks.sets * sum(sizes)
    count = max(1, blocks.complete(capacity))
    values, gates = (allocate((batch, 1, max(1, capacity), width), dtype) for _ in range(2))
    rows, keys = (allocate((batch, 1, count, size), dtype) for size in sizes)
    return BlockCache(blocks, CacheSegment(values, gates, 0), CacheSegment(rows, keys, 0))
