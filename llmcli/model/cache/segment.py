"""A piece of a cache's memory: what one layer keeps for consecutive positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

Allocate: TypeAlias = Callable[[tuple[int, ...], torch.dtype], Tensor]
"""Makes a tensor of a shape (B, K, positions, D) and a data type, not initialized."""


class CacheSegment(NamedTuple):
    """One layer's memory: `keys` (B, K, size, D) and `values` (B, K, size, D) of the positions from `first` on.

    In a cache of 8 bits, D is the bytes of a row of `int8_rows`.
    """

    keys: Tensor
    values: Tensor
    first: int

    @property
    def end(self) -> int:
        """The first position after the allocated ones."""
        return self.first + self.keys.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.keys.nbytes + self.values.nbytes

    def write(self, position: int, keys: Tensor, values: Tensor) -> None:
        """Store `keys` and `values` (B, K, T, D) of the positions from `position` on."""
        place = slice(position - self.first, position - self.first + keys.shape[2])
        self.keys[:, :, place] = keys
        self.values[:, :, place] = values

    def read(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the positions from `start` to `end`, (B, K, S, D), as they are stored."""
        seen = slice(start - self.first, end - self.first)
        return self.keys[:, :, seen], self.values[:, :, seen]

    def moved(self, first: int, end: int, size: int, allocate: Allocate) -> CacheSegment:
        """A new segment of `size` positions from `first` on, with a copy of the contents up to position `end`."""

        def copied(tensor: Tensor) -> Tensor:
            made = allocate((*tensor.shape[:2], size, tensor.shape[3]), tensor.dtype)
            kept = tensor[:, :, first - self.first : end - self.first]
            made[:, :, : kept.shape[2]] = kept
            return made

        return CacheSegment(copied(self.keys), copied(self.values), first)
