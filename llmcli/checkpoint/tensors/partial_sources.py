"""Parameter sources that read a part of another source: what one of several ranks needs of a parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmcli.checkpoint.tensors.parameter_sources import Joined, ParameterSource, Source, Stacked, row_chunks
from llmcli.checkpoint.tensors.tensor_info import StoredTensor

if TYPE_CHECKING:
    from torch import Tensor

    from llmcli.checkpoint.tensors.reader import TensorReader


@dataclass(frozen=True)
class SomeColumns:
    """The columns `start` to `stop` of a matrix."""

    source: ParameterSource
    start: int
    stop: int

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors of the matrix."""
        return self.source.names

    def shape(self, stored: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        """(rows, columns that are needed)."""
        return self.source.shape(stored)[0], self.stop - self.start

    def read_into(self, stored: Mapping[str, StoredTensor], reader: TensorReader, target: Tensor) -> None:
        """See `ParameterSource`."""
        if not isinstance(self.source, Source) or self.source.pairs is not None:
            whole = target.new_empty(self.source.shape(stored))
            self.source.read_into(stored, reader, whole)
            target.copy_(whole[:, self.start : self.stop])
            return
        filled = 0
        for first, last in self.source.ranges or ((0, len(target)),):
            for _, values in row_chunks(stored[self.source.name], reader, first, last, 1):
                target[filled : filled + len(values)].copy_(values[:, self.start : self.stop])
                filled += len(values)


@dataclass(frozen=True)
class SomeRows:
    """The rows `start` to `stop` of a parameter that is no concatenation of rows; all of it is read."""

    source: ParameterSource
    start: int
    stop: int

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors of the parameter."""
        return self.source.names

    def shape(self, stored: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        """(rows that are needed, *rest of the shape)."""
        return (self.stop - self.start, *self.source.shape(stored)[1:])

    def read_into(self, stored: Mapping[str, StoredTensor], reader: TensorReader, target: Tensor) -> None:
        """See `ParameterSource`."""
        whole = target.new_empty(self.source.shape(stored))
        self.source.read_into(stored, reader, whole)
        target.copy_(whole[self.start : self.stop])


def some_rows(source: ParameterSource, stored: Mapping[str, StoredTensor], start: int, stop: int) -> ParameterSource:
    """The rows `start` to `stop` of a parameter, or matrices of a stack; other rows are not read where possible."""
    from llmcli.checkpoint.tensors.gguf_parameter_sources import SideBySide

    match source:
        case Source() if source.pairs is None or start % source.pairs.head_dim == stop % source.pairs.head_dim == 0:
            rows = stored[source.name].shape[0]
            return replace(source, ranges=tuple(_within(source.ranges or ((0, rows),), start, stop)), rows=rows)
        case Joined():
            return Joined(tuple(_of_parts(source.parts, stored, start, stop)))
        case Stacked():
            return Stacked(source.parts[start:stop])
        case SideBySide(held=None):
            return replace(source, held=(start, stop))
    return SomeRows(source, start, stop)


def _within(ranges: tuple[tuple[int, int], ...], start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The rows number `start` to `stop` of those in `ranges`, as ranges."""
    before = 0
    for first, last in ranges:
        size = last - first
        if before < stop and before + size > start:
            yield first + max(0, start - before), first + min(size, stop - before)
        before += size


def _of_parts(
    parts: tuple[ParameterSource, ...], stored: Mapping[str, StoredTensor], start: int, stop: int
) -> Iterator[ParameterSource]:
    """The rows number `start` to `stop` of `parts`, one after the other."""
    before = 0
    for part in parts:
        size = part.shape(stored)[0]
        if before < stop and before + size > start:
            yield some_rows(part, stored, max(0, start - before), min(size, stop - before))
        before += size
