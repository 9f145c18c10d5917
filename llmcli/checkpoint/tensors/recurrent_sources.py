"""Parameter sources that only recurrent layers need."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmcli.checkpoint.tensors.parameter_sources import floating_rows, row_chunks
from llmcli.checkpoint.tensors.tensor_info import StoredTensor

if TYPE_CHECKING:
    from torch import Tensor

    from llmcli.checkpoint.tensors.reader import TensorReader


@dataclass(frozen=True)
class Reshaped:
    """A small tensor that files store with other dimensions, as many have dimensions of one or groups."""

    name: str
    size: tuple[int, ...]
    """The shape that is needed."""

    @property
    def names(self) -> tuple[str, ...]:
        """The one tensor that is read."""
        return (self.name,)

    def shape(self, stored: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        """The shape that is needed if the tensor has that number of values, else the tensor's."""
        found = stored[self.name].shape
        return self.size if math.prod(found) == math.prod(self.size) else found

    def read_into(self, stored: Mapping[str, StoredTensor], reader: TensorReader, target: Tensor) -> None:
        """See `ParameterSource`."""
        target.copy_(_values(stored[self.name], reader).view(target.shape))


@dataclass(frozen=True)
class NegatedExponential(Reshaped):
    """The rates A of a recurrence, `-exp(x)` of the stored logarithms x."""

    def read_into(self, stored: Mapping[str, StoredTensor], reader: TensorReader, target: Tensor) -> None:
        """See `ParameterSource`."""
        logarithms = _values(stored[self.name], reader)
        target.copy_(logarithms.float().exp().neg().view(target.shape))


@dataclass(frozen=True)
class Scaled:
    """The rows of a matrix or vector, or a range of them, times constants that the model would multiply outputs by."""

    name: str
    factors: tuple[tuple[int, float], ...]
    """(rows, factor) of one part after the other."""

    @property
    def names(self) -> tuple[str, ...]:
        """The one tensor that is read."""
        return (self.name,)

    def shape(self, stored: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        """The shape of the tensor."""
        return stored[self.name].shape

    def read_into(self, stored: Mapping[str, StoredTensor], reader: TensorReader, target: Tensor) -> None:
        """See `ParameterSource`."""
        start = 0
        for rows, factor in self.factors:
            for first, values in row_chunks(stored[self.name], reader, start, start + rows, 1):
                target[first : first + len(values)].copy_(values.float() * factor)
            start += rows


def _values(tensor: StoredTensor, reader: TensorReader) -> Tensor:
    return floating_rows(tensor, reader, 0, tensor.shape[0])
