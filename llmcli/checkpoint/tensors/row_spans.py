"""The row ranges of stored tensors that make up a parameter, if it is a concatenation of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmcli.checkpoint.tensors.gguf_parameter_sources import SideBySide
from llmcli.checkpoint.tensors.last_read import last_read
from llmcli.checkpoint.tensors.parameter_sources import Joined, PairedRows, ParameterSource, Source, Stacked
from llmcli.checkpoint.tensors.partial_sources import SomeColumns
from llmcli.checkpoint.tensors.tensor_info import StoredTensor, TensorInfo

if TYPE_CHECKING:
    from torch import Tensor

    from llmcli.checkpoint.tensors.tensor_info import RowReader


@dataclass(frozen=True)
class RowSpan:
    """A row range of a tensor that becomes the next rows of matrix `index`."""

    tensor: StoredTensor
    start: int
    stop: int
    index: int
    pairs: PairedRows | None
    columns: tuple[int, int] | None = None
    """The columns (start, stop) that are needed; None: all."""


def spans_of(source: ParameterSource, stored: Mapping[str, StoredTensor], index: int = 0) -> Iterator[RowSpan]:
    """The row ranges of a source, in order; none if it is not a mere concatenation of rows."""
    match source:
        case Source():
            tensor = stored[source.name]
            shape = tensor.shape
            if len(shape) == 3:
                matrices = [matrix for rows in source.ranges or ((0, shape[0]),) for matrix in range(*rows)]
                for number, matrix in enumerate(matrices):
                    yield RowSpan(_matrix(tensor, matrix), 0, shape[1], number, source.pairs)
            elif source.ranges is not None:
                for start, stop in source.ranges:
                    yield RowSpan(tensor, start, stop, index, source.pairs)
            else:
                yield RowSpan(tensor, 0, shape[0], index, source.pairs)
        case Joined():
            for part in source.parts:
                yield from spans_of(part, stored, index)
        case Stacked():
            for number, part in enumerate(source.parts):
                yield from spans_of(part, stored, number)
        case SideBySide():
            for name in source.stacks:
                yield from spans_of(source.stack(name, stored), stored)
        case SomeColumns():
            for span in spans_of(source.source, stored, index):
                yield replace(span, columns=(source.start, source.stop))


@dataclass(frozen=True)
class MatrixOfStack:
    """A matrix of a stack (E, N, K) whose rows cannot be read one by one; a `StoredTensor`."""

    stack: StoredTensor
    index: int

    @property
    def name(self) -> str:
        """The name of the stack."""
        return self.stack.name

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, K)."""
        return self.stack.shape[1:]

    @property
    def nbytes(self) -> int:
        """The matrix's share of the stack's bytes."""
        return self.stack.nbytes // self.stack.shape[0]

    @property
    def encoding(self) -> str:
        """The encoding of the stack."""
        return self.stack.encoding

    def read_rows(self, reader: RowReader, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop`; the whole matrix is read and decoded once."""

        def read() -> tuple[Tensor]:
            return (self.stack.read_rows(reader, self.index, self.index + 1).view(self.shape),)

        return last_read(reader, (self.name, self.index), read)[0][start:stop]


def _matrix(stack: StoredTensor, index: int) -> StoredTensor:
    if not isinstance(stack, TensorInfo):
        return MatrixOfStack(stack, index)
    size = stack.nbytes // stack.rows
    return replace(stack, shape=stack.shape[1:], offset=stack.offset + index * size, nbytes=size)
