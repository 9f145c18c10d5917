"""Memory layout of packed matrices: bits of a code, columns that share a scale, and the order of codes and scales.

Narrow blocks are in the order in which a CPU reads them fastest: 16 rows x 32 columns; the 32 columns of a row share a
scale. Each of eight vectors of 64 bytes holds 4 consecutive columns of the 16 rows, so one instruction multiplies 4
columns of all rows, and no sum runs across a register. With 4 bits two such vectors share their bytes: the lower
nibbles are columns 8j to 8j + 3, the upper ones 8j + 4 to 8j + 7. Scales in half precision come before the codes of all
columns of 16 rows: 16 for each group, with 4 bits followed by the group's 16 minima.

Wide blocks are in the order in which a GPU reads them fastest: 4 rows x all columns. A word of 32 bits has 8
consecutive columns of 4 bits, or 4 of 8, lowest bits first. Words of the same columns of the 4 rows are adjacent, so
the 16 bytes that a thread loads at a time need the same activations, and the scales of one group. After the codes come,
for each group, 4 scales in half precision, each followed by its minimum with 4 bits; or, where a group is a whole row
of 8 bits, 4 scales in float32.

    4 bits:  value = scale * code + minimum
    8 bits:  value = scale * (code - 128)

| bits | columns that share a scale | bits a weight | for |
|---|---|---|---|
| 4 | 32 | 5 | CPUs; on GPUs small models, and files that keep them so |
| 8 | 32 | 8.5 | the same |
| 4 | 128 | 4.25 | GPUs |
| 8 | 128 | 8.125 | GPUs, where files keep them in longer groups |
| 8 | all of a row | 8, and 32 for a row | GPUs |

Rows are padded to a multiple of a block's rows, columns to a multiple of a group, or of 32; wide blocks to a multiple
of 16 bytes, the scales and minima of narrow blocks to a multiple of 64.

Dimension letters: N rows, C columns, R blocks of rows, B bytes of a block, V vectors of a block's rows, G groups of a
row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, get_args

if TYPE_CHECKING:
    from torch import Tensor

Bits: TypeAlias = Literal[4, 8]
BITS: tuple[Bits, ...] = get_args(Bits)

COLUMNS = 32
"""Columns of the shortest groups, and of a narrow block."""
ROWS = 16
"""Rows of a narrow block, and a multiple of the rows of a wide one."""
_WIDE_ROWS, _LONG = 4, 128
# Bytes that a GPU thread loads at a time; blocks are aligned to them.
_WIDE_BYTES = 16
# Bytes of a cache line.
_LINE = 64


class Views(NamedTuple):
    """Views of the codes, scales and minima in blocks, in the order of their memory."""

    codes: Tensor
    """(R, G, V, rows, 4) uint8."""
    numbers: Tensor
    """(R, G, 1 or 2, rows): scales, and with 4 bits minima."""

    def of_rows(self, block: Tensor, row: Tensor) -> Views:
        """Select row `row[i]` of block `block[i]`, both (N,): N blocks of one row."""
        return Views(self.codes[block, ..., row, :].unsqueeze(-2), self.numbers[block, ..., row].unsqueeze(-1))


@dataclass(frozen=True)
class PackedFormat:
    """A packed format: bits of a code, columns that share a scale, and narrow or wide blocks."""

    bits: Bits
    group: int | None
    """Columns that share a scale: 32; in wide blocks also 128, or with 8 bits None, a whole row."""
    wide: bool
    """Blocks for GPUs (wide) instead of CPUs (narrow)."""

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return _WIDE_ROWS if self.wide else ROWS

    def groups(self, columns: int) -> int:
        """Number of groups in a row of `columns` columns."""
        return 1 if self.group is None else -(-columns // self.group)

    def padded(self, columns: int) -> int:
        """`columns`, rounded up to a multiple of a group or of 32."""
        step = self.group or COLUMNS
        return -(-columns // step) * step

    def block_bytes(self, columns: int) -> int:
        """Bytes of a block of rows."""
        size = self._code_bytes(columns) + self._number_bytes(columns)
        return -(-size // _WIDE_BYTES) * _WIDE_BYTES if self.wide else size

    def nbytes(self, rows: int, columns: int, count: int = 1) -> int:
        """Bytes of `count` packed matrices."""
        return count * -(-rows // self.rows) * self.block_bytes(columns)

    def views(self, blocks: Tensor, columns: int) -> Views:
        """Views of what `blocks` (R, B) hold."""
        import torch

        count, groups, code_bytes = len(blocks), self.groups(columns), self._code_bytes(columns)
        # In wide blocks scales and minima come after the codes, in narrow ones before.
        start, first = (0, code_bytes) if self.wide else (self._number_bytes(columns), 0)
        codes = blocks[:, start : start + code_bytes].view(count, groups, -1, self.rows, 4)
        numbers = blocks[:, first : first + self._each_number() * groups * self.rows]
        numbers = numbers.view(torch.float32 if self.group is None else torch.float16)
        if self.wide:
            return Views(codes, numbers.view(count, groups, self.rows, -1).transpose(2, 3))
        return Views(codes, numbers.view(count, groups, -1, self.rows))

    def write(self, to: Views, codes: Tensor, numbers: Tensor) -> None:
        """Write codes (R, rows, G, columns of a group) uint8, and scales and minima (R, G, 1 or 2, rows)."""
        blocks, rows, groups, _ = codes.shape
        if self.wide and self.bits == 4:
            codes = _pairs(codes, -1)
        words = codes.view(blocks, rows, groups, -1, 4).permute(0, 2, 3, 1, 4)
        to.codes.copy_(words if self.wide or self.bits == 8 else _pairs(words, -3))
        to.numbers.copy_(numbers)

    def read(self, views: Views) -> tuple[Tensor, Tensor]:
        """Read codes (R, rows, G, columns of a group) uint8, and scales and minima (R, G, 1 or 2, rows)."""
        words = views.codes if self.wide or self.bits == 8 else _out_of_pairs(views.codes, -3)
        blocks, groups, _, rows, _ = words.shape
        codes = words.permute(0, 3, 1, 2, 4).reshape(blocks, rows, groups, -1)
        return _out_of_pairs(codes, -1) if self.wide and self.bits == 4 else codes, views.numbers

    def _code_bytes(self, columns: int) -> int:
        """Bytes of the codes of a block of rows."""
        return self.rows * self.padded(columns) * self.bits // 8

    def _number_bytes(self, columns: int) -> int:
        """Bytes of the scales and minima of a block of rows; in narrow blocks with padding to whole cache lines."""
        numbers = self._each_number() * self.groups(columns) * self.rows
        return numbers if self.wide else -(-numbers // _LINE) * _LINE

    def _each_number(self) -> int:
        """Bytes of a scale, or of a scale and a minimum."""
        return 4 if self.bits == 4 or self.group is None else 2

    def __str__(self) -> str:
        """The format's usual name, like "int4 g128"."""
        group = "" if not self.wide else f" g{self.group}" if self.group else " by row"
        return f"int{self.bits}{group}"


def _pairs(codes: Tensor, dim: int) -> Tensor:
    """Pack pairs of 4-bit codes along a dimension into bytes, the first in the lower nibble."""
    codes = codes.movedim(dim, 0)
    return (codes[0::2] | codes[1::2] << 4).movedim(0, dim)


def _out_of_pairs(pairs: Tensor, dim: int) -> Tensor:
    import torch

    dim %= pairs.dim()
    return torch.stack((pairs & 15, pairs >> 4), dim=dim + 1).flatten(dim, dim + 1)


def narrow(bits: Bits) -> PackedFormat:
    """The format for CPUs."""
    return PackedFormat(bits, COLUMNS, wide=False)


def wide(bits: Bits, group: int | None = None) -> PackedFormat:
    """The format for GPUs. `group` columns, 32 or 128, share a scale; by default 128 with 4 bits, a row with 8."""
    return PackedFormat(bits, group or (_LONG if bits == 4 else None), wide=True)
