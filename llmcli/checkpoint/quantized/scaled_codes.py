"""Weights stored as rows of codes with a grid of scales: one scale per tensor, row, group or block.

FP8 in all its forms, packed integers of compressed-tensors, NVFP4 and MXFP4 differ only in how a code becomes a number
and in the cells of the grid. All may have a leading dimension of experts: (E, N, K).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmcli.checkpoint.files.weight_file import shown
from llmcli.checkpoint.quantized.base import (
    check_shape,
    dequantized,
    fills_groups,
    flat,
    grouped,
    read_groups,
    unpacked,
)
from llmcli.checkpoint.tensors.tensor_info import TensorInfo
from llmcli.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from torch import Tensor

    from llmcli.checkpoint.tensors.tensor_info import RowReader
    from llmcli.model.quantized.matrix import Groups

SCALES = ("F32", "F16", "BF16", "F8_E4M3", "F8_E8M0", "U8")
"""Encodings of scales; bytes are powers of two as in F8_E8M0."""

# FP4 (E2M1) of the OCP Microscaling specification.
_FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)

Cell = tuple[int | None, int | None]
"""Rows and columns that share a scale; None means all."""


@dataclass(frozen=True)
class GridRows:
    """Decodes rows of `W[n, k] = (q[n, k] - z[n // rows, k // columns]) * scale[n // rows, k // columns]`."""

    shape: tuple[int, ...]
    """(N, K) or (E, N, K)."""
    weight: TensorInfo
    """The stored codes, row by row."""
    codes: Callable[[Tensor], Tensor]
    """Converts stored rows (R, anything) to numbers (R, at least K)."""
    scale: TensorInfo
    cell: tuple[int, int]
    zero: TensorInfo | None = None
    zero_bits: int | None = None
    """Bits of zero points that are packed along N; None if they are not packed."""
    groups: TensorInfo | None = None
    """The group of each column, integers (K,); None if groups are consecutive columns."""
    global_scale: TensorInfo | None = None
    """A further scale of the whole tensor, or one for each expert."""
    global_divides: bool = False
    """Whether scales are divided by the global scale instead of multiplied."""
    global_unit: int = 1
    """What the global scale is divided by."""
    fraction: int = 1
    """Codes are whole multiples of 1 / `fraction`, if they are to be packed."""

    def __call__(self, reader: RowReader, start: int, stop: int) -> Tensor:
        """Rows or experts `start` to `stop`, float32 (all rows of these, K)."""
        import torch

        codes, scales, zeros = self._numbers(reader, start, stop)
        groups = torch.arange(codes.shape[1]) // self.cell[1]
        if self.groups is not None:
            groups = read_groups(reader, self.groups, scales.shape[1])
        return dequantized(codes, scales, zeros, groups)

    def packed(self, reader: RowReader, start: int, stop: int) -> Groups:
        """Rows `start` to `stop` as codes and scales, for signed codes of up to 8 bits with groups within a row.

        A bfloat16 scale of at least 2^-17 is exact in half precision; a smaller one is off by at most 2^-25, which is
        2^-18 for the largest of its weights. A power of two is exact from 2^-24 on.

        Raises:
            CheckpointError: a scale is too large for half precision.
        """
        codes, scales, _ = self._numbers(reader, start, stop)
        groups = grouped(codes * self.fraction + 128, scales / self.fraction, None, self.cell[1])
        if not bool(groups.scale.isfinite().all()):
            raise too_large(self.scale)
        return groups

    @property
    def packable(self) -> bool:
        """Whether `packed` supports these codes, if they have 8 bits."""
        alone = len(self.shape) == 2 and self.zero is None and self.groups is None and self.global_scale is None
        fits = self.cell[0] == 1 and fills_groups(self.cell[1], self.shape[-1])
        return alone and fits and self.scale.encoding in ("F16", "BF16")

    def _numbers(self, reader: RowReader, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Codes (R, K), scales and zero points (R, G)."""
        import torch

        experts = stop - start if len(self.shape) == 3 else 1
        rows, columns = self.shape[-2:]
        # Row range of each matrix: all rows of some experts, or some rows of a single matrix.
        low, high = (0, rows) if len(self.shape) == 3 else (start, stop)

        def read(info: TensorInfo, first: int, last: int) -> Tensor:
            piece = (start, stop) if len(self.shape) == 3 else (first, last)
            return reader.read_rows(info, *piece).reshape(experts, last - first, -1)

        cell_rows = self.cell[0]
        first, last = low // cell_rows, -(-high // cell_rows)
        of_row = torch.arange(low, high) // cell_rows - first
        scales = _floats(read(self.scale, first, last))  # (E, cells, G)
        if self.global_scale is not None:
            factor = read(flat(self.global_scale), 0, 1).float() / self.global_unit
            scales = scales / factor if self.global_divides else scales * factor
        scales = scales.index_select(1, of_row).flatten(0, 1)  # (R, G)
        zeros = None
        if self.zero is not None and self.zero_bits is None:
            zeros = read(self.zero, first, last).float().index_select(1, of_row).flatten(0, 1)
        elif self.zero is not None and self.zero_bits is not None:
            # 32 zero points fill `zero_bits` words.
            first, last = low // 32 * self.zero_bits, min(-(-high // 32) * self.zero_bits, self.zero.shape[-2])
            columns_of_words = read(self.zero, first, last).transpose(1, 2)  # (E, G, words)
            zeros = packed_codes(self.zero_bits)(columns_of_words)[..., low % 32 :][..., : high - low]
            zeros = zeros.transpose(1, 2).flatten(0, 1)
        codes = self.codes(read(self.weight, low, high).flatten(0, 1))[:, :columns]  # (R, K)
        return codes, scales, zeros


def grid_cell(scale: TensorInfo, weight: TensorInfo, shape: tuple[int, ...], cells: Iterable[Cell]) -> tuple[int, int]:
    """The one of `cells` that divides a weight of `shape` into as many pieces as there are scales.

    Scales of whole rows may omit the last dimension, and the scale of a whole matrix both.

    Raises:
        CheckpointError: none of them does.
        UnsupportedModelError: several do, and the settings do not say which.
    """
    *lead, rows, columns = shape
    found: set[tuple[int, int]] = set()
    wanted: list[int] = []
    for cell_rows, cell_columns in cells:
        cell = (min(cell_rows or rows, rows), min(cell_columns or columns, columns))
        pieces = (-(-rows // cell[0]), -(-columns // cell[1]))
        wanted = [*lead, *pieces]
        forms = [(*lead, *pieces)]
        if pieces[1] == 1 and not lead:
            forms.append((pieces[0],))
        if pieces == (1, 1):
            forms.append(tuple(lead))
        if scale.shape in forms:
            found.add(cell)
    if not found:
        check_shape(scale, tuple(wanted), weight)
        raise CheckpointError(f"{scale.path}: tensor {shown(scale.name)} has a shape that no setting explains.")
    if len(found) > 1:
        raise ambiguous(scale)
    return found.pop()


def ambiguous(info: TensorInfo) -> UnsupportedModelError:
    """The error for a tensor whose shape fits several different settings."""
    return UnsupportedModelError(
        f"{info.path}: the shape of {shown(info.name)} fits several of the model's quantization settings, "
        "which cannot be distinguished; use an unquantized or a GGUF version of the model."
    )


def too_large(info: TensorInfo) -> CheckpointError:
    """The error for scales that packed weights cannot hold."""
    return CheckpointError(
        f"{info.path}: tensor {shown(info.name)} has numbers above 65504, which packed weights cannot hold. Use "
        "--dtype bfloat16 to load the model."
    )


def check_one_number(info: TensorInfo, lead: tuple[int, ...], partner: TensorInfo) -> None:
    """Raise `CheckpointError` unless a tensor holds one number for each of the leading dimensions `lead`."""
    if [size for size in info.shape if size != 1] != [size for size in lead if size != 1]:
        check_shape(info, lead or (1,), partner)


def float_codes(stored: Tensor) -> Tensor:
    """Codes that are numbers already: FP8 or int8, (R, K)."""
    return stored.float()


def fp4_codes(stored: Tensor) -> Tensor:
    """Decode two FP4 numbers per byte, the first in the lower nibble: (R, B) to (R, 2 B)."""
    import torch

    table = torch.tensor([[_FP4[byte & 15], _FP4[byte >> 4]] for byte in range(256)])
    return table.index_select(0, stored.flatten().int()).view(stored.shape[0], -1)


def packed_codes(bits: int) -> Callable[[Tensor], Tensor]:
    """A decoder of signed integers of `bits` bits, packed along the last dimension with an offset of 2^(bits - 1)."""
    return lambda stored: unpacked(stored, bits) - (1 << (bits - 1))


def _floats(scales: Tensor) -> Tensor:
    import torch

    return (scales.view(torch.float8_e8m0fnu) if scales.dtype == torch.uint8 else scales).float()
