"""Quantized weights: codes and scales in separate tensors, read like one tensor of floats.

Here and in the modules of the methods, only functions that compute values import torch: headers are read and checked
without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmcli.checkpoint.files.weight_file import shown
from llmcli.checkpoint.tensors.last_read import last_read
from llmcli.checkpoint.tensors.tensor_info import StoredTensor, TensorInfo
from llmcli.errors import CheckpointError
from llmcli.model.quantized.layout import COLUMNS, Bits, wide

if TYPE_CHECKING:
    from torch import Tensor

    from llmcli.checkpoint.tensors.tensor_info import RowReader
    from llmcli.model.quantized.matrix import Groups

FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class QuantizedTensor:
    """Several stored tensors that decode to one, float32; a `StoredTensor`."""

    name: str
    shape: tuple[int, ...]
    encoding: str
    parts: tuple[TensorInfo, ...]
    decode: Callable[[RowReader, int, int], Tensor]
    """Decodes rows (reader, start, stop); the values of a row may have any shape."""
    groups: Callable[[RowReader, int, int], Groups] | None = None
    """Returns the same rows as codes and scales; None if packed blocks cannot hold these."""
    bits: Bits = 4
    """Bits per code when packed."""
    wide: bool = False
    """Whether its groups are as long as the long groups of packed blocks, or a multiple."""

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self.parts)

    def read_rows(self, reader: RowReader, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of the first dimension, float32 (rows, values of a row).

        Raises:
            CheckpointError: a file ends too early or cannot be read, or an index points outside its table.
        """
        if not 0 <= start <= stop <= self.shape[0]:
            raise ValueError(f"{self.name} has {self.shape[0]} rows; {start} to {stop} were asked for")
        if start == stop:
            import torch

            return torch.empty(0, math.prod(self.shape[1:]))
        return self.decode(reader, start, stop).reshape(stop - start, -1)


class TensorPool:
    """The tensors of a checkpoint while the parts of each quantized weight are replaced by one `QuantizedTensor`."""

    def __init__(self, tensors: Mapping[str, TensorInfo]) -> None:
        self.left = dict(tensors)
        """Tensors that have not been taken."""
        self._made: dict[str, QuantizedTensor] = {}

    def stems(self, suffix: str) -> list[str]:
        """The names of remaining tensors that end in `suffix`, without the suffix."""
        return [name.removesuffix(suffix) for name in self.left if name.endswith(suffix)]

    def take(self, name: str, encodings: Collection[str], *, beside: TensorInfo | None = None) -> TensorInfo:
        """Remove and return the tensor `name`, which must be stored in one of `encodings`.

        Raises:
            CheckpointError: it is missing (but needed by `beside`), empty, or stored otherwise.
        """
        info = self.take_optional(name, encodings)
        if info is None:
            place = "" if beside is None else f"{beside.path}: tensor {shown(beside.name)} is quantized, but "
            raise CheckpointError(f"{place}the tensor {shown(name)} is missing. Download the model again.")
        return info

    def take_optional(self, name: str, encodings: Collection[str]) -> TensorInfo | None:
        """Like `take`, but None if the tensor is missing."""
        info = self.left.pop(name, None)
        if info is None:
            return None
        if info.encoding not in encodings:
            raise CheckpointError(
                f"{info.path}: tensor {shown(name)} holds {info.encoding} numbers; {' or '.join(encodings)} is needed."
            )
        if info.values == 0:
            raise CheckpointError(f"{info.path}: tensor {shown(name)} is empty.")
        return info

    def put(self, tensor: QuantizedTensor) -> None:
        """Add a weight made of taken tensors; `CheckpointError` if the checkpoint has another one of that name."""
        if tensor.name in self.left or tensor.name in self._made:
            raise CheckpointError(
                f"{tensor.parts[0].path} holds the weight {shown(tensor.name)} twice: quantized and as it is."
            )
        self._made[tensor.name] = tensor

    def result(self) -> dict[str, StoredTensor]:
        """The remaining tensors and the added ones."""
        return {**self.left, **self._made}


def check_shape(info: TensorInfo, shape: tuple[int, ...], partner: TensorInfo) -> None:
    """Raise `CheckpointError` unless `info` has the `shape` that follows from `partner`."""
    if info.shape != shape:
        raise CheckpointError(
            f"{info.path}: tensor {shown(info.name)} has shape {list(info.shape)}, but {list(shape)} goes with "
            f"{shown(partner.name)} of shape {list(partner.shape)}. Download the model again."
        )


def check_matrix(info: TensorInfo) -> tuple[int, int]:
    """The shape of a matrix; `CheckpointError` if it is not a matrix."""
    if len(info.shape) != 2:
        raise CheckpointError(f"{info.path}: tensor {shown(info.name)} has shape {list(info.shape)}, not two sizes.")
    return info.shape[0], info.shape[1]


def as_bytes(info: TensorInfo) -> TensorInfo:
    """The same tensor as a vector of bytes."""
    return replace(info, encoding="U8", shape=(info.nbytes,))


def flat(info: TensorInfo) -> TensorInfo:
    """The same tensor, flattened."""
    return replace(info, shape=(info.values,))


def unpacked(words: Tensor, bits: int) -> Tensor:
    """Unpack unsigned numbers of `bits` bits, 1 to 8, from int32 words (..., W), lowest bits first: int32 (..., C).

    They are packed densely: if `bits` does not divide 32, then 32 numbers fill `bits` words, and some span two words.
    Missing words at the end count as zeros, so C may exceed the number of packed values.
    """
    import torch
    from torch.nn.functional import pad

    mask = (1 << bits) - 1
    if 32 % bits == 0:
        return (words.unsqueeze(-1) >> torch.arange(0, 32, bits, dtype=torch.int32) & mask).flatten(-2)
    groups = pad(words, (0, -words.shape[-1] % bits)).reshape(*words.shape[:-1], -1, bits)
    fields = []
    for first in range(0, 32 * bits, bits):
        word, offset = divmod(first, 32)
        field = groups[..., word] >> offset
        if offset + bits > 32:
            low = 32 - offset
            # The shift copies the sign bit: mask it off.
            field = (field & ((1 << low) - 1)) | (groups[..., word + 1] << low)
        fields.append(field & mask)
    return torch.stack(fields, -1).flatten(-2)


def dequantized(codes: Tensor, scales: Tensor, zeros: Tensor | None, groups: Tensor) -> Tensor:
    """Dequantize: (codes - zeros) * scales in float32, (N, K).

    `codes` is (N, K), `scales` and `zeros` are (N, G), and `groups` (K,) holds the index in G of each column.
    """
    values = codes.float()
    if zeros is not None:
        values -= _spread(zeros, groups)
    return values.mul_(_spread(scales, groups))


def packable(scales: TensorInfo, group_size: int, inputs: int) -> bool:
    """Whether packed blocks can hold codes with such scales, each for `group_size` of `inputs` columns."""
    # Scales must be half precision and the same for all columns of a block.
    return scales.encoding == "F16" and fills_groups(group_size, inputs)


def fills_groups(group_size: int, inputs: int) -> bool:
    """Whether groups of this size are multiples of the short groups of packed blocks."""
    return _is_multiple(group_size, COLUMNS, inputs)


def as_wide(group_size: int, inputs: int) -> bool:
    """Whether groups of this size are multiples of the long groups of packed blocks."""
    return _is_multiple(group_size, wide(4).group or inputs, inputs)


def _is_multiple(group_size: int, columns: int, inputs: int) -> bool:
    return group_size % columns == 0 or group_size >= inputs


def grouped(codes: Tensor, scales: Tensor, zeros: Tensor | None, group_size: int) -> Groups:
    """Codes (N, K) of up to 4 bits, with `scales` and `zeros` (N, G) for each `group_size` columns, ready for packing.

    A minimum is a scale times a zero point, rounded to half precision: a relative error of at most 2^-11. Without
    `zeros`, codes have 8 bits and a zero point of 128.
    """
    import torch

    from llmcli.model.quantized.matrix import Groups

    of_block = torch.arange(0, codes.shape[1], COLUMNS) // group_size
    scales = scales.float()
    minima = None if zeros is None else (scales * -zeros)[:, of_block].half()
    return Groups(codes.to(torch.uint8), scales[:, of_block].half(), minima)


def _spread(columns: Tensor, groups: Tensor) -> Tensor:
    columns = columns.float().contiguous()
    return columns if columns.shape[1] == 1 else columns.index_select(1, groups)


def read_groups(reader: RowReader, info: TensorInfo, groups: int) -> Tensor:
    """The table (K,) with the group of each column, int64.

    Raises:
        CheckpointError: a group outside of 0 to `groups` - 1.
    """
    table = reader.read_rows(flat(info), 0, info.values).long()
    low, high = int(table.min()), int(table.max())
    if low < 0 or high >= groups:
        raise CheckpointError(
            f"{info.path}: tensor {shown(info.name)} names group {low if low < 0 else high}, "
            f"but there are {groups} groups. Download the model again."
        )
    return table


def read_whole(reader: RowReader, infos: tuple[TensorInfo, ...]) -> tuple[Tensor, ...]:
    """All values of tensors that belong together, cached until the thread asks for others.

    For layouts in which rows of the weight are columns in the file: the rows are needed in chunks, and each chunk
    would otherwise read the whole tensors again.
    """
    return last_read(reader, infos, lambda: tuple(reader.read_rows(info, 0, info.rows) for info in infos))
