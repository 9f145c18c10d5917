"""Descriptions of tensors in files: shape, encoding and position."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class RowReader(Protocol):
    """Reads rows of plain and block-encoded tensors from their files."""

    def read_rows(self, info: TensorInfo, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop`, (rows, row length), or (elements,) of a one-dimensional tensor."""


class StoredTensor(Protocol):
    """A tensor of a checkpoint, however it is stored: plain, in blocks, or as codes with separate scales."""

    @property
    def name(self) -> str:
        """The name in the checkpoint."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the decoded values."""

    @property
    def nbytes(self) -> int:
        """Bytes in the files."""

    @property
    def encoding(self) -> str:
        """A name of the encoding, for display."""

    def read_rows(self, reader: RowReader, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of the first dimension, floating point (rows, values of a row)."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's description in the header of its file; the position has been checked against the file's size."""

    name: str
    shape: tuple[int, ...]
    """In torch's order: the last dimension is contiguous."""
    encoding: str
    """A name in `LAYOUTS`."""
    path: Path
    offset: int
    """Bytes from the start of the file."""
    nbytes: int

    @property
    def values(self) -> int:
        """The number of values."""
        return math.prod(self.shape)

    @property
    def rows(self) -> int:
        """The size of the first dimension; 1 for a scalar."""
        return self.shape[0] if self.shape else 1

    @property
    def row_length(self) -> int:
        """The number of values in one row."""
        return math.prod(self.shape[1:])

    def read_rows(self, reader: RowReader, start: int, stop: int) -> Tensor:
        """Like `RowReader.read_rows`; makes this class a `StoredTensor`."""
        return reader.read_rows(self, start, stop)
