"""How a packed matrix lies in memory: bits of a code, how many columns of a row share a scale, and what is beside what.

Narrow blocks are as a CPU reads them fastest: 16 rows x 32 columns, which share a scale. Eight vectors of 64 bytes hold
4 consecutive columns of the 16 rows each, so that one instruction multiplies 4 columns of all rows and nothing is ever
summed across a register. With 4 bits two such vectors share their bytes: the lower nibbles are columns 8j to 8j + 3,
the upper ones 8j + 4 to 8j + 7. Behind the codes stand 16 scales and 16 minima in half precision. With 8 bits the upper
nibbles of all columns of 16 rows come first, as if these were codes of 4 bits, then the scales, then the lower nibbles
in the same way: who need not know a row exactly reads little more than half of it (see kernels/cpu_screen.h).

Wide blocks are as a GPU reads them fastest: 4 rows x all columns. A word of 32 bits has 8 consecutive columns of 4
bits, or 4 of 8, lowest bits first; words of the same columns of 4 rows follow each other, so that the 16 bytes which a
thread takes at a time need the same activations, and one group's scales. Behind the codes stand, for each group, 4
scales in half precision, with 4 bits each before its minimum; or with 8 bits 4 scales for the rows in float32.

    4 bits:  value = scale * code + minimum
    8 bits:  value = scale * (code - 128)

| bits | columns that share a scale | bits a weight | for |
|---|---|---|---|
| 4 | 32 | 5 | CPUs; on GPUs small models, and files that keep them so |
| 8 | 32 | 8.5 | the same |
| 4 | 128 | 4.25 | GPUs |
| 8 | 128 | 8.125 | GPUs, where files keep them in longer groups |
| 8 | all of a row | 8, and 32 for a row | GPUs |

Rows are padded to those of a block, columns to a multiple of a group, or of 32; wide blocks to whole 16 bytes.

Dimension letters: N rows, C columns, R blocks of rows, V vectors of a block's rows, G groups of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

Bits: TypeAlias = Literal[4, 8]
BITS: tuple[Bits, ...] = get_args(Bits)

COLUMNS = 32
"""Columns of the shortest groups, and of a narrow block."""
ROWS = 16
"""A multiple of the rows of any block."""
_WIDE_ROWS, _LONG = 4, 128
# A thread takes so many at a time, wherever a block begins.
_WIDE_BYTES = 16


@dataclass(frozen=True)
class PackedFormat:
    """Bits of a code, columns that share a scale, and in which kind of blocks they lie."""

    bits: Bits
    group: int | None
    """32; in wide blocks also 128, or with 8 bits None: all columns of a row."""
    wide: bool

    @property
    def rows(self) -> int:
        """Of a block."""
        return _WIDE_ROWS if self.wide else ROWS

    def groups(self, columns: int) -> int:
        """How many groups there are in a row of so many columns."""
        return 1 if self.group is None else -(-columns // self.group)

    def padded(self, columns: int) -> int:
        """So many columns, with those that fill the last block."""
        step = self.group or COLUMNS
        return -(-columns // step) * step

    def blocks_shape(self, rows: int, columns: int, count: int = 1) -> tuple[int, int, int]:
        """Of `count` matrices: blocks of rows, blocks of columns, bytes."""
        across = 1 if self.wide or self.bits == 8 else self.groups(columns)
        nbytes = (self._code_bytes(columns) + self._tail_bytes(columns)) // across
        if self.wide:
            nbytes = -(-nbytes // _WIDE_BYTES) * _WIDE_BYTES
        return count * -(-rows // self.rows), across, nbytes

    def parts(self, blocks: Tensor, columns: int) -> tuple[Tensor, Tensor]:
        """Views of what blocks hold: codes, as `in_words` gives them, and scales and minima (R, G, 1 or 2, rows)."""
        count, groups, across = len(blocks), self.groups(columns), blocks.shape[1]
        code_bytes = self._code_bytes(columns) // across
        # Where the numbers stand: behind the codes, or behind their upper halves.
        start = code_bytes // 2 if self.is_halved else code_bytes
        stop = start + self._tail_bytes(columns) // across
        numbers = blocks[:, :, start:stop].view(self._tail_dtype)
        if self.is_halved:
            half = ROWS * COLUMNS // 2
            strides = blocks.stride(0), half, stop, 4 * self.rows, 4, 1
            codes = blocks.as_strided((count, groups, 2, half // 4 // self.rows, self.rows, 4), strides)
        else:
            codes = blocks[:, :, :code_bytes].view(count, groups, -1, self.rows, 4)
        if self.wide:
            return codes, numbers.view(count, groups, self.rows, self._numbers).transpose(2, 3)
        return codes, numbers.view(count, groups, self._numbers, self.rows)

    def in_words(self, codes: Tensor) -> Tensor:
        """Codes (R, rows, G, columns of a group) uint8 as they lie in blocks: (R, G, V, rows, 4), halves before V."""
        blocks, rows, groups, _ = codes.shape
        if self.wide and self.bits == 4:
            codes = _pairs(codes, -1)
        words = codes.view(blocks, rows, groups, -1, 4).permute(0, 2, 3, 1, 4)
        if self.is_halved:
            words = torch.stack((words >> 4, words & 15), dim=2)
        return words if self.wide else _pairs(words, -3)

    def in_columns(self, words: Tensor) -> Tensor:
        """The reverse, of all rows of a block or of fewer, to (R, rows, G, columns of a group)."""
        blocks, groups, rows = len(words), words.shape[1], words.shape[-2]
        if not self.wide:
            words = _out_of_pairs(words, -3)
        if self.is_halved:
            words = words[:, :, 0] << 4 | words[:, :, 1]
        codes = words.permute(0, 3, 1, 2, 4).reshape(blocks, rows, groups, -1)
        return _out_of_pairs(codes, -1) if self.wide and self.bits == 4 else codes

    @property
    def is_halved(self) -> bool:
        """Whether the upper nibbles of a block's codes lie before the lower ones."""
        return self.bits == 8 and not self.wide

    @property
    def _numbers(self) -> int:
        return 2 if self.bits == 4 else 1

    @property
    def _tail_dtype(self) -> torch.dtype:
        return torch.float32 if self.group is None else torch.float16

    def _code_bytes(self, columns: int) -> int:
        return self.rows * self.padded(columns) * self.bits // 8

    def _tail_bytes(self, columns: int) -> int:
        return self._numbers * self.groups(columns) * self.rows * self._tail_dtype.itemsize

    def __str__(self) -> str:
        """As people call it."""
        group = "" if not self.wide else f" g{self.group}" if self.group else " by row"
        return f"int{self.bits}{group}"


def _pairs(codes: Tensor, dim: int) -> Tensor:
    """Two codes of 4 bits along a dimension share a byte, the first its lower nibble."""
    codes = codes.movedim(dim, 0)
    return (codes[0::2] | codes[1::2] << 4).movedim(0, dim)


def _out_of_pairs(pairs: Tensor, dim: int) -> Tensor:
    dim %= pairs.dim()
    return torch.stack((pairs & 15, pairs >> 4), dim=dim + 1).flatten(dim, dim + 1)


def narrow(bits: Bits) -> PackedFormat:
    """The one for CPUs."""
    return PackedFormat(bits, COLUMNS, wide=False)


def wide(bits: Bits, group: int | None = None) -> PackedFormat:
    """The one for GPUs, whose `group` of 32 or 128 columns share a scale; else 128 with 4 bits, and a row with 8."""
    return PackedFormat(bits, group or (_LONG if bits == 4 else None), wide=True)
