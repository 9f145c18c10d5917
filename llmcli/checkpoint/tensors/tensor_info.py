"""Where a tensor lies in a file, and how it is stored there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class RowReader(Protocol):
    """Reads plain tensors and tensors in blocks from their files."""

    def read_rows(self, info: TensorInfo, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop`, (rows, row length), or (elements,) of a one-dimensional tensor."""


class StoredTensor(Protocol):
    """A tensor of the checkpoint, whatever it takes to read it: plain, in blocks, or codes and scales kept apart."""

    @property
    def name(self) -> str:
        """What the checkpoint calls it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the values it decodes to."""

    @property
    def nbytes(self) -> int:
        """Bytes in the files."""

    @property
    def encoding(self) -> str:
        """How its values are stored, for people."""

    def read_rows(self, reader: RowReader, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of the first dimension as (rows, values of a row), floating point."""


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies, as the header of its file has it; header readers have checked it against the file's size."""

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
        """The first dimension: for one-dimensional tensors the elements."""
        return self.shape[0] if self.shape else 1

    @property
    def row_length(self) -> int:
        """The values of one row."""
        return math.prod(self.shape[1:])

    def read_rows(self, reader: RowReader, start: int, stop: int) -> Tensor:
        """What `RowReader.read_rows` gives, so that a tensor can be read without asking what kind it is."""
        return reader.read_rows(self, start, stop)
