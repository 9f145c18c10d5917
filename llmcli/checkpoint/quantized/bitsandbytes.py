"""Weights of `bitsandbytes`: NF4 and FP4 with nested scales, and int8 with one scale per row."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.checkpoint.files.weight_file import shown
from llmcli.checkpoint.quantized.base import (
    FLOATS,
    QuantizedTensor,
    TensorPool,
    as_bytes,
    check_matrix,
    check_shape,
    flat,
)
from llmcli.checkpoint.tensors.small_tensors import read_integers, read_stored
from llmcli.checkpoint.tensors.tensor_info import TensorInfo
from llmcli.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from torch import Tensor

    from llmcli.checkpoint.tensors.tensor_info import RowReader

_LONGEST_STATE = 1 << 16
# A quantized weight may be stored with any dtype; only its bytes matter.
_ANY = ("U8", "I8", "F16", "BF16", "F32")


@dataclass(frozen=True)
class Scales4Bit:
    """One scale for each `block_size` values, in storage order."""

    absmax: TensorInfo
    """Floats, or bytes that are indices into `nested_map`."""
    block_size: int
    nested_map: TensorInfo | None = None
    nested_absmax: TensorInfo | None = None
    nested_block_size: int = 1
    nested_offset: float = 0.0

    def read(self, reader: RowReader, start: int, stop: int) -> Tensor:
        """The scales of the values `start` to `stop`, float32 (stop - start,)."""
        first, last = start // self.block_size, -(-stop // self.block_size)
        absmax = reader.read_rows(flat(self.absmax), first, last)
        if self.nested_map is not None and self.nested_absmax is not None:
            table = reader.read_rows(flat(self.nested_map), 0, 256).float()
            factors = _repeated(reader, self.nested_absmax, self.nested_block_size, first, last)
            absmax = table.index_select(0, absmax.int()) * factors + self.nested_offset
        return absmax.float().repeat_interleave(self.block_size)[start - first * self.block_size :][: stop - start]


@dataclass(frozen=True)
class Rows4Bit:
    """Decodes rows of `W = quant_map[q] * scale`, two codes in each byte, the first in the upper nibble."""

    row_length: int
    weight: TensorInfo
    quant_map: TensorInfo
    scales: Scales4Bit

    def __call__(self, reader: RowReader, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop`, float32 (rows, row length)."""
        import torch

        low, high = start * self.row_length, stop * self.row_length
        stored = reader.read_rows(as_bytes(self.weight), low // 2, -(-high // 2)).int()
        codes = torch.stack((stored >> 4, stored & 15), -1).flatten()[low % 2 :][: high - low]
        levels = reader.read_rows(flat(self.quant_map), 0, 16).float()
        return levels.index_select(0, codes).mul_(self.scales.read(reader, low, high)).view(stop - start, -1)


@dataclass(frozen=True)
class Rows8Bit:
    """Decodes rows of `W = q * SCB / 127`."""

    weight: TensorInfo
    scale: TensorInfo

    def __call__(self, reader: RowReader, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop`, float32 (rows, K)."""
        scale = reader.read_rows(flat(self.scale), start, stop).float()
        return reader.read_rows(self.weight, start, stop).float().mul_(scale.unsqueeze(1)).div_(127)


def _repeated(reader: RowReader, info: TensorInfo, size: int, start: int, stop: int) -> Tensor:
    """The numbers `start` to `stop` of a tensor whose values are each repeated `size` times."""
    first, last = start // size, -(-stop // size)
    values = reader.read_rows(flat(info), first, last).float()
    return values.repeat_interleave(size)[start - first * size :][: stop - start]


def collapse_bitsandbytes(tensors: TensorPool) -> None:
    """Replace W, `W.absmax`, `W.quant_map`, ... by W, and `X.weight`, `X.SCB` by `X.weight`.

    Raises:
        CheckpointError: parts are missing, damaged or contradict each other.
        UnsupportedModelError: int8 weights in the layout of a particular GPU.
    """
    for kind in ("nf4", "fp4"):
        for name in tensors.stems(f".quant_state.bitsandbytes__{kind}"):
            state = tensors.take(f"{name}.quant_state.bitsandbytes__{kind}", ("U8",))
            _put_4_bit(tensors, name, kind, state, _read_state(state))
    for stem in tensors.stems(".SCB"):
        _put_8_bit(tensors, stem)


def _put_8_bit(tensors: TensorPool, stem: str) -> None:
    scale = tensors.take(f"{stem}.SCB", FLOATS)
    weight = tensors.take(f"{stem}.weight", ("I8",), beside=scale)
    order = tensors.take_optional(f"{stem}.weight_format", ("U8", "I8", "I32", "I64"))
    rows, columns = check_matrix(weight)
    _check_values(scale, rows, weight)
    if order is not None and read_integers(order, 1) != (0,):
        raise UnsupportedModelError(
            f"{order.path}: {shown(weight.name)} is stored in the order of a particular GPU; "
            "use an unquantized or a GGUF version of the model."
        )
    parts = (weight, scale)
    tensors.put(QuantizedTensor(weight.name, (rows, columns), "int8", parts, Rows8Bit(weight, scale)))


def _put_4_bit(tensors: TensorPool, name: str, kind: str, state: TensorInfo, keys: ConfigKeys) -> None:
    shape = _shape(keys)
    values, block_size = math.prod(shape), keys.integer("blocksize")
    weight = tensors.take(name, _ANY, beside=state)
    if weight.nbytes != -(-values // 2):
        raise CheckpointError(
            f"{weight.path}: tensor {shown(name)} has {weight.nbytes} bytes, but {-(-values // 2)} make "
            f"the shape {list(shape)} that {shown(state.name)} says. Download the model again."
        )
    quant_map = tensors.take(f"{name}.quant_map", FLOATS, beside=weight)
    absmax = tensors.take(f"{name}.absmax", (*FLOATS, "U8"), beside=weight)
    blocks = -(-values // block_size)
    _check_values(quant_map, 16, weight)
    _check_values(absmax, blocks, weight)
    parts: tuple[TensorInfo, ...] = (weight, absmax, quant_map, state)
    scales = Scales4Bit(absmax, block_size)
    if absmax.encoding == "U8":
        nested_map = tensors.take(f"{name}.nested_quant_map", FLOATS, beside=weight)
        nested_absmax = tensors.take(f"{name}.nested_absmax", FLOATS, beside=weight)
        nested_size = keys.integer("nested_blocksize")
        _check_values(nested_map, 256, weight)
        _check_values(nested_absmax, -(-blocks // nested_size), absmax)
        parts = (*parts, nested_map, nested_absmax)
        scales = Scales4Bit(absmax, block_size, nested_map, nested_absmax, nested_size, keys.number("nested_offset"))
    decode = Rows4Bit(math.prod(shape[1:]), weight, quant_map, scales)
    tensors.put(QuantizedTensor(name, shape, kind.upper(), parts, decode))


def _read_state(info: TensorInfo) -> ConfigKeys:
    if info.nbytes > _LONGEST_STATE:
        raise CheckpointError(f"{info.path}: tensor {shown(info.name)} has {info.nbytes} bytes, far too many.")
    try:
        state = json.loads(read_stored(info))
    except (ValueError, RecursionError):
        state = None
    if not isinstance(state, dict):
        raise CheckpointError(f"{info.path}: tensor {shown(info.name)} is not a JSON object. Download it again.")
    return ConfigKeys(state, info.path)


def _shape(keys: ConfigKeys) -> tuple[int, ...]:
    sizes = keys.get("shape")
    # Bounded, so that the product of hostile sizes stays small.
    if (
        not isinstance(sizes, list)
        or not 1 <= len(sizes) <= 4
        or not all(isinstance(size, int) and not isinstance(size, bool) and 0 < size < 1 << 31 for size in sizes)
    ):
        raise CheckpointError(f"{keys.path}: the state of a quantized weight has the shape {str(sizes)[:80]}.")
    return tuple(sizes)


def _check_values(info: TensorInfo, count: int, partner: TensorInfo) -> None:
    if info.values != count:
        check_shape(info, (count,), partner)
