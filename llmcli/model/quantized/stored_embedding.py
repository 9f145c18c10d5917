"""Tables of embeddings in the bits of their file, in memory or in the file: only rows that are looked up are decoded.

Dimension letters: N rows that are looked up, B bytes of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class StoredFormat:
    """How a file stores rows: in blocks of `block_size` values, `block_bytes` bytes each; plain numbers have size 1."""

    encoding: str
    block_size: int
    block_bytes: int
    in_file: bool = False
    """Whether rows are read from the file when they are looked up, so that the table takes no memory."""

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of `columns` values, a multiple of `block_size`."""
        return columns // self.block_size * self.block_bytes

    def nbytes(self, rows: int, columns: int, count: int = 1) -> int:
        """Bytes of `count` tables in memory."""
        return 0 if self.in_file else count * rows * self.row_bytes(columns)


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


class EmbeddingInFile(nn.Module):
    """`nn.Embedding` whose rows are read from the file when they are looked up: for tables larger than most memories.

    A row that was read lately is in the system's file cache.
    """

    def __init__(
        self,
        kept: StoredFormat,
        decode: Callable[[Tensor], Tensor],
        read: Callable[[Sequence[int], Tensor], None],
        rows: int,
        columns: int,
        *,
        dtype: torch.dtype,
    ) -> None:
        """`read` fills uint8 (N, B) on the CPU with the given rows; `decode` is that of `StoredEmbedding`."""
        super().__init__()
        self.format, self.decode, self.read, self.dtype = kept, decode, read, dtype
        self.num_embeddings, self.embedding_dim = rows, columns

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., columns), on the device of `ids`."""
        found, places = torch.unique(ids.cpu(), return_inverse=True)
        stored = torch.empty((len(found), self.format.row_bytes(self.embedding_dim)), dtype=torch.uint8)
        self.read(found.tolist(), stored)
        values = self.decode(stored.view(-1, self.format.block_bytes)).reshape(len(found), -1)
        return values.to(self.dtype)[places].to(ids.device)
