"""The row ranges of stored tensors that make up a parameter, if it is a concatenation of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from llmcli.checkpoint.tensors.gguf_parameter_sources import SideBySide
from llmcli.checkpoint.tensors.parameter_sources import Joined, PairedRows, ParameterSource, Source, Stacked
from llmcli.checkpoint.tensors.tensor_info import StoredTensor, TensorInfo


@dataclass(frozen=True)
class RowSpan:
    """A row range of a tensor that becomes the next rows of matrix `index`."""

    tensor: StoredTensor
    start: int
    stop: int
    index: int
    pairs: PairedRows | None


def spans_of(source: ParameterSource, stored: Mapping[str, StoredTensor], index: int = 0) -> Iterator[RowSpan]:
    """The row ranges of a source, in order; none if it is not a mere concatenation of rows."""
    match source:
        case Source():
            tensor = _flat(stored[source.name])
            shape = stored[source.name].shape
            if source.ranges is not None:
                for start, stop in source.ranges:
                    yield RowSpan(tensor, start, stop, index, source.pairs)
            elif len(shape) == 3:
                for matrix in range(shape[0]):
                    yield RowSpan(tensor, matrix * shape[1], (matrix + 1) * shape[1], matrix, source.pairs)
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
                yield from spans_of(Source(name), stored)


def _flat(tensor: StoredTensor) -> StoredTensor:
    """A stack of matrices as one matrix, if its rows can be read one by one."""
    if isinstance(tensor, TensorInfo) and len(tensor.shape) == 3:
        return replace(tensor, shape=(tensor.shape[0] * tensor.shape[1], tensor.shape[2]))
    return tensor
