"""Parameter sources that only GGUF files need: each undoes a change of llama.cpp's converter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmcli.checkpoint.tensors.parameter_sources import Source, floating_rows
from llmcli.checkpoint.tensors.tensor_info import StoredTensor
from llmcli.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from llmcli.checkpoint.tensors.reader import TensorReader


@dataclass(frozen=True)
class Centered:
    """A norm weight of which the file stores 1 + weight."""

    name: str

    @property
    def names(self) -> tuple[str, ...]:
        """The one tensor that is read."""
        return (self.name,)

    def shape(self, stored: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        """The shape of the tensor."""
        return stored[self.name].shape

    def read_into(self, stored: Mapping[str, StoredTensor], reader: TensorReader, target: Tensor) -> None:
        """See `ParameterSource`."""
        factors = floating_rows(stored[self.name], reader, 0, target.shape[0])
        # Exact in float32: the stored factor has the bits of the original weight.
        target.copy_((factors.float() - 1).view(target.shape))


@dataclass(frozen=True)
class SingleRow:
    """A matrix of one row, stored as a vector."""

    name: str

    @property
    def names(self) -> tuple[str, ...]:
        """The one tensor that is read."""
        return (self.name,)

    def shape(self, stored: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        """(1, columns), whether the file has the first dimension or not."""
        shape = stored[self.name].shape
        return shape if len(shape) > 1 else (1, *shape)

    def read_into(self, stored: Mapping[str, StoredTensor], reader: TensorReader, target: Tensor) -> None:
        """See `ParameterSource`."""
        tensor = stored[self.name]
        target.copy_(floating_rows(tensor, reader, 0, tensor.shape[0]).view(target.shape))


@dataclass(frozen=True)
class SideBySide:
    """Stacks of one matrix or vector per expert, concatenated expert by expert along the rows."""

    stacks: tuple[str, ...]
    held: tuple[int, int] | None = None
    """The experts (start, stop) that are needed; None: all."""

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors of all stacks."""
        return self.stacks

    def stack(self, name: str, stored: Mapping[str, StoredTensor]) -> Source:
        """The experts that are needed in the stack `name`."""
        return Source(name) if self.held is None else Source(name, None, (self.held,), stored[name].shape[0])

    def shape(self, stored: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        """(experts, rows of all stacks, columns); without columns for vectors."""
        shapes = [self.stack(name, stored).shape(stored) for name in self.stacks]
        for name, shape in zip(self.stacks, shapes, strict=True):
            if len(shape) < 2 or (shape[0], shape[2:]) != (shapes[0][0], shapes[0][2:]):
                raise CheckpointError(
                    f"Tensor {name} has shape {list(shape)}, "
                    f"which does not match {self.stacks[0]} of shape {list(shapes[0])}."
                )
        return (shapes[0][0], sum(shape[1] for shape in shapes), *shapes[0][2:])

    def read_into(self, stored: Mapping[str, StoredTensor], reader: TensorReader, target: Tensor) -> None:
        """See `ParameterSource`."""
        first = 0
        for name in self.stacks:
            tensor = stored[name]
            size = tensor.shape[1]
            start, stop = self.held or (0, tensor.shape[0])
            for number, expert in enumerate(range(start, stop)):
                part = target[number, first : first + size]
                part.copy_(floating_rows(tensor, reader, expert, expert + 1).view(part.shape))
            first += size


@dataclass(frozen=True)
class KeysAndValues:
    """The matrix that expands a latent to keys and values, stored as two stacks with one matrix per head.

    The file stores keys transposed, (heads, rank, key), and values as (heads, value, rank). The model has the key rows
    and then the value rows of each head, (heads * (key + value), rank).
    """

    keys: str
    values: str

    @property
    def names(self) -> tuple[str, ...]:
        """The two tensors that are read."""
        return (self.keys, self.values)

    def shape(self, stored: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        """(heads * (key + value), rank)."""
        keys, values = stored[self.keys].shape, stored[self.values].shape
        if len(keys) != 3 or len(values) != 3 or (keys[0], keys[1]) != (values[0], values[2]):
            raise CheckpointError(
                f"Tensor {self.keys} has shape {list(keys)}, "
                f"which does not match {self.values} of shape {list(values)}."
            )
        return (keys[0] * (keys[2] + values[1]), keys[1])

    def read_into(self, stored: Mapping[str, StoredTensor], reader: TensorReader, target: Tensor) -> None:
        """See `ParameterSource`."""
        keys, values = stored[self.keys], stored[self.values]
        heads = target.view(keys.shape[0], -1, target.shape[1])
        for head, rows in enumerate(heads):
            size = keys.shape[2]
            rows[:size].copy_(floating_rows(keys, reader, head, head + 1).view(keys.shape[1:]).T)
            rows[size:].copy_(floating_rows(values, reader, head, head + 1).view(values.shape[1:]))
