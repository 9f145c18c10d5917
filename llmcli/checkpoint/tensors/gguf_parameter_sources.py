"""Ways in which only GGUF files keep a parameter: what the converter did to it is undone while it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmcli.checkpoint.tensors.tensor_info import StoredTensor
from llmcli.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from llmcli.checkpoint.tensors.reader import TensorReader


@dataclass(frozen=True)
class Centered:
    """The weight of a norm whose factor is 1 + weight, stored as that factor."""

    name: str

    @property
    def names(self) -> tuple[str, ...]:
        """The one tensor that is read."""
        return (self.name,)

    def shape(self, stored: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        """The tensor's own."""
        return stored[self.name].shape

    def read_into(self, stored: Mapping[str, StoredTensor], reader: TensorReader, target: Tensor) -> None:
        """See `ParameterSource`."""
        factors = _rows(stored[self.name], reader, 0, target.shape[0])
        # In float32, which holds what a weight of fewer bits was before 1 was added to it.
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
        """One row, whether the file has that dimension or not."""
        shape = stored[self.name].shape
        return shape if len(shape) > 1 else (1, *shape)

    def read_into(self, stored: Mapping[str, StoredTensor], reader: TensorReader, target: Tensor) -> None:
        """See `ParameterSource`."""
        tensor = stored[self.name]
        target.copy_(_rows(tensor, reader, 0, tensor.shape[0]).view(target.shape))


@dataclass(frozen=True)
class SideBySide:
    """Stacks, one matrix or vector for each expert, joined expert by expert."""

    stacks: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors of all stacks."""
        return self.stacks

    def shape(self, stored: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        """Number of experts, the stacks' rows together, and the length of a row of matrices."""
        shapes = [stored[name].shape for name in self.stacks]
        for name, shape in zip(self.stacks, shapes, strict=True):
            if len(shape) < 2 or (shape[0], shape[2:]) != (shapes[0][0], shapes[0][2:]):
                raise CheckpointError(
                    f"Tensor {name} has shape {list(shape)}, "
                    f"which does not go with {self.stacks[0]} of shape {list(shapes[0])}."
                )
        return (shapes[0][0], sum(shape[1] for shape in shapes), *shapes[0][2:])

    def read_into(self, stored: Mapping[str, StoredTensor], reader: TensorReader, target: Tensor) -> None:
        """See `ParameterSource`."""
        first = 0
        for name in self.stacks:
            tensor = stored[name]
            size = tensor.shape[1]
            for expert in range(tensor.shape[0]):
                part = target[expert, first : first + size]
                part.copy_(_rows(tensor, reader, expert, expert + 1).view(part.shape))
            first += size


@dataclass(frozen=True)
class KeysAndValues:
    """The matrix that makes keys and values from a latent, stored as two stacks with one matrix for each head.

    The file has those of keys transposed, (heads, rank, key), and those of values straight, (heads, value, rank); the
    model has the rows of each head's keys and values one after another, (heads * (key + value), rank).
    """

    keys: str
    values: str

    @property
    def names(self) -> tuple[str, ...]:
        """The two tensors that are read."""
        return (self.keys, self.values)

    def shape(self, stored: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        """As the model has it."""
        keys, values = stored[self.keys].shape, stored[self.values].shape
        if len(keys) != 3 or len(values) != 3 or (keys[0], keys[1]) != (values[0], values[2]):
            raise CheckpointError(
                f"Tensor {self.keys} has shape {list(keys)}, "
                f"which does not go with {self.values} of shape {list(values)}."
            )
        return (keys[0] * (keys[2] + values[1]), keys[1])

    def read_into(self, stored: Mapping[str, StoredTensor], reader: TensorReader, target: Tensor) -> None:
        """See `ParameterSource`."""
        keys, values = stored[self.keys], stored[self.values]
        heads = target.view(keys.shape[0], -1, target.shape[1])
        for head, rows in enumerate(heads):
            size = keys.shape[2]
            rows[:size].copy_(_rows(keys, reader, head, head + 1).view(keys.shape[1:]).T)
            rows[size:].copy_(_rows(values, reader, head, head + 1).view(values.shape[1:]))


def _rows(tensor: StoredTensor, reader: TensorReader, start: int, stop: int) -> Tensor:
    rows = tensor.read_rows(reader, start, stop)
    if not rows.is_floating_point():
        raise CheckpointError(f"Tensor {tensor.name} holds {rows.dtype} numbers; weights must be floating-point.")
    return rows
