"""Parameter sources that few checkpoints need: values that no file holds, whole numbers, and rows as columns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmcli.checkpoint.tensors.parameter_sources import Source
from llmcli.checkpoint.tensors.tensor_info import StoredTensor
from llmcli.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from llmcli.checkpoint.tensors.reader import TensorReader


@dataclass(frozen=True)
class Zeros:
    """A parameter that the files leave out because it is zero."""

    size: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """No tensor is read."""
        return ()

    def shape(self, stored: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        """The shape that is needed."""
        return self.size

    def read_into(self, stored: Mapping[str, StoredTensor], reader: TensorReader, target: Tensor) -> None:
        """See `ParameterSource`."""
        target.zero_()


@dataclass(frozen=True)
class Constant:
    """A parameter of one value, which the header of the file states."""

    value: float

    @property
    def names(self) -> tuple[str, ...]:
        """No tensor is read."""
        return ()

    def shape(self, stored: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        """(1,)."""
        return (1,)

    def read_into(self, stored: Mapping[str, StoredTensor], reader: TensorReader, target: Tensor) -> None:
        """See `ParameterSource`."""
        target.fill_(self.value)


@dataclass(frozen=True)
class Sinusoids:
    """Vectors of `count` positions from `first` on: sines, then cosines (Vaswani et al. 2017, section 3.5)."""

    first: int
    count: int
    width: int

    @property
    def names(self) -> tuple[str, ...]:
        """No tensor is read."""
        return ()

    def shape(self, stored: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        """(positions, width)."""
        return self.count, self.width

    def read_into(self, stored: Mapping[str, StoredTensor], reader: TensorReader, target: Tensor) -> None:
        """See `ParameterSource`."""
        import torch

        half = self.width // 2
        # Frequencies from 1 down to 1/10000, both included.
        frequencies = torch.exp(torch.arange(half).float() * -(math.log(10000) / max(1, half - 1)))
        angles = torch.arange(self.first, self.first + self.count)[:, None].float() * frequencies
        target.zero_()
        target[:, : 2 * half] = torch.cat((angles.sin(), angles.cos()), dim=1)


@dataclass(frozen=True)
class Turned:
    """The transpose of some rows of a matrix."""

    source: Source

    @property
    def names(self) -> tuple[str, ...]:
        """The one tensor that is read."""
        return self.source.names

    def shape(self, stored: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        """(columns, rows) of the rows that are read."""
        rows, *rest = self.source.shape(stored)
        return (*rest, rows)

    def read_into(self, stored: Mapping[str, StoredTensor], reader: TensorReader, target: Tensor) -> None:
        """See `ParameterSource`."""
        rows = target.new_empty(target.shape[::-1])
        self.source.read_into(stored, reader, rows)
        target.copy_(rows.T)


@dataclass(frozen=True)
class WholeNumbers:
    """A table of whole numbers from 0 to below `limit`."""

    name: str
    limit: int

    @property
    def names(self) -> tuple[str, ...]:
        """The one tensor that is read."""
        return (self.name,)

    def shape(self, stored: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        """That of the tensor."""
        return stored[self.name].shape

    def read_into(self, stored: Mapping[str, StoredTensor], reader: TensorReader, target: Tensor) -> None:
        """See `ParameterSource`; `CheckpointError` for other numbers."""
        tensor = stored[self.name]
        values = tensor.read_rows(reader, 0, tensor.shape[0])
        if values.is_floating_point():
            raise CheckpointError(f"Tensor {self.name} holds {values.dtype} numbers; whole numbers are needed.")
        target.copy_(values.view(target.shape))
        low, high = int(target.min()), int(target.max())
        if low < 0 or high >= self.limit:
            raise CheckpointError(
                f"Tensor {self.name} holds {low if low < 0 else high}; whole numbers from 0 to {self.limit - 1} are "
                "needed."
            )
