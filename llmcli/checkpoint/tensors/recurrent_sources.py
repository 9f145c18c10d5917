"""Parameter sources that only recurrent layers need, and the gated attention of models that have these."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmcli.checkpoint.tensors.parameter_sources import Source, floating_rows, row_chunks
from llmcli.checkpoint.tensors.tensor_info import StoredTensor
from llmcli.model import Heads
from llmcli.model.mixer_config import DeltaConfig

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


def queries_or_gate(name: str, heads: Heads, which: int) -> Source:
    """The queries (0) or the gate (1) of attention in a tensor that has both of one head after the other."""
    size = heads.key_dim
    starts = ((2 * head + which) * size for head in range(heads.count))
    return Source(name, None, tuple((start, start + size) for start in starts), 2 * heads.count * size)


def qkvz_by_key_head(name: str, delta: DeltaConfig, *wanted: int) -> Source:
    """Queries (0), keys (1), values (2) and gates (3) in a tensor with all four of one key head after the other."""
    values = delta.value_heads // delta.key_heads * delta.value_dim
    return _by_key_head(name, delta, (delta.key_dim, delta.key_dim, values, values), wanted)


def ba_by_key_head(name: str, delta: DeltaConfig, which: int) -> Source:
    """Strengths (0) or decays (1) in a tensor with both of the value heads of one key head after the other."""
    shared = delta.value_heads // delta.key_heads
    return _by_key_head(name, delta, (shared, shared), (which,))


def _by_key_head(name: str, delta: DeltaConfig, sizes: tuple[int, ...], wanted: tuple[int, ...]) -> Source:
    ranges = []
    for part in wanted:
        for head in range(delta.key_heads):
            start = head * sum(sizes) + sum(sizes[:part])
            ranges.append((start, start + sizes[part]))
    return Source(name, None, tuple(ranges), delta.key_heads * sum(sizes))
