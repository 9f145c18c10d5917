"""A table of embeddings in the bits of its file: for tables so large that only the rows that are looked up are decoded.

Dimension letters: N rows that are looked up, B bytes of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class StoredFormat:
    """How a file stores rows: in blocks of `block_size` values, `block_bytes` bytes each; plain numbers have size 1."""

    encoding: str
    block_size: int
    block_bytes: int

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of `columns` values, a multiple of `block_size`."""
        return columns // self.block_size * self.block_bytes

    def nbytes(self, rows: int, columns: int, count: int = 1) -> int:
        """Bytes of `count` tables."""
        return count * rows * self.row_bytes(columns)


class StoredEmbedding(nn.Module):
    """`nn.Embedding` whose rows are decoded when they are looked up."""

    stored: Tensor
    """(rows, B) uint8."""

    def __init__(
        self,
        kept: StoredFormat,
        decode: Callable[[Tensor], Tensor],
        rows: int,
        columns: int,
        *,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        """Allocate memory without filling it; `decode` turns blocks, uint8 (n, bytes), into values (n, block size)."""
        super().__init__()
        self.format, self.decode, self.dtype = kept, decode, dtype
        self.num_embeddings, self.embedding_dim = rows, columns
        self.register_buffer("stored", torch.empty((rows, kept.row_bytes(columns)), dtype=torch.uint8, device=device))

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., columns)."""
        found = self.stored[ids.flatten()]  # (N, B)
        values = self.decode(found.view(-1, self.format.block_bytes))
        return values.reshape(*ids.shape, self.embedding_dim).to(self.dtype)
