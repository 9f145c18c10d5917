"""Weights of 4 or 8 bits: 32 columns of a row share a scale, and they lie in memory as a CPU reads them fastest.

A block is 16 rows x 32 columns. Eight vectors of 64 bytes hold 4 consecutive columns of the 16 rows each, so that one
instruction multiplies 4 columns of all rows and nothing is ever summed across a register. With 4 bits two such vectors
share their bytes: the lower nibbles are columns 8j to 8j + 3, the upper ones 8j + 4 to 8j + 7. Behind the codes stand
the 16 scales and, with 4 bits, the 16 minima, in half precision:

    4 bits:  value = scale * code + minimum            320 bytes, 5 bits a weight
    8 bits:  value = scale * (code - 128)              544 bytes, 8.5 bits a weight

Rows are padded to a multiple of 16 and columns to one of 32.

Dimension letters: N rows, C columns, G groups of a row, R blocks of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.model.pages import Pages

Bits: TypeAlias = Literal[4, 8]

ROWS = 16
COLUMNS = 32
_CODE_BYTES: dict[Bits, int] = {4: 256, 8: 512}
BLOCK_BYTES: dict[Bits, int] = {4: 320, 8: 544}
# Values dequantised at a time, in float32: 4 MiB. On a GPU, where each piece costs a dozen launches: 64 MiB.
_VALUES_AT_ONCE = 1 << 20
_DEVICE_VALUES_AT_ONCE = 1 << 24


def blocks_shape(bits: Bits, rows: int, columns: int, count: int = 1) -> tuple[int, int, int]:
    """Of `count` matrices in blocks: blocks of rows, groups of columns, bytes."""
    return count * -(-rows // ROWS), -(-columns // COLUMNS), BLOCK_BYTES[bits]


@dataclass(frozen=True)
class Groups:
    """Rows of codes, with the scale (and, with 4 bits, the minimum) of every 32 of them."""

    codes: Tensor
    """(N, C) uint8: 0 to 15, or the number plus 128."""
    scale: Tensor
    """(N, G) float16."""
    minimum: Tensor | None
    """(N, G) float16 with 4 bits, None with 8."""

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: slice) -> Groups:
        return Groups(self.codes[rows], self.scale[rows], None if self.minimum is None else self.minimum[rows])

    def followed_by(self, other: Groups) -> Groups:
        """These rows and then those, of as many bits."""
        both = None if self.minimum is None or other.minimum is None else torch.cat((self.minimum, other.minimum))
        return Groups(torch.cat((self.codes, other.codes)), torch.cat((self.scale, other.scale)), both)

    def with_rows(self, change: Callable[[Tensor], Tensor]) -> Groups:
        """With the same `change` made to the rows of all numbers: another order, another device."""
        minimum = None if self.minimum is None else change(self.minimum)
        return Groups(change(self.codes), change(self.scale), minimum)

    @property
    def bits(self) -> Bits:
        """Of each code."""
        return 8 if self.minimum is None else 4

    @property
    def tails(self) -> tuple[Tensor, ...]:
        """What stands behind the codes of a block."""
        return (self.scale,) if self.minimum is None else (self.scale, self.minimum)

    def values(self) -> Tensor:
        """What they stand for: float32 (N, C)."""
        columns = self.codes.shape[1]
        codes = _padded(self.codes, self.scale.shape[1] * COLUMNS).view(*self.scale.shape, COLUMNS).float()
        if self.minimum is None:
            values = codes.sub_(128).mul_(self.scale.float()[..., None])
        else:
            values = codes.mul_(self.scale.float()[..., None]).add_(self.minimum.float()[..., None])
        return values.flatten(1)[:, :columns]


class PackedMatrix(nn.Module):
    """A matrix, or a stack of them, in packed blocks."""

    blocks: Tensor
    """(count * R, G, bytes of a block) uint8."""

    def __init__(
        self,
        bits: Bits,
        rows: int,
        columns: int,
        *,
        dtype: torch.dtype,
        count: int = 1,
        pages: Pages | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Memory for `count` matrices, not yet filled, from `pages` if given; `dtype` is what they are handed out in.

        Raises:
            MemoryError: there is none; torch itself says so by a RuntimeError.
        """
        super().__init__()
        self.bits, self.rows, self.columns, self.count, self.dtype = bits, rows, columns, count, dtype
        self.row_blocks = -(-rows // ROWS)
        shape = blocks_shape(bits, rows, columns, count)
        if pages is not None:
            empty = pages.empty(shape, torch.uint8)
        else:
            empty = torch.empty(shape, dtype=torch.uint8, device=device)
        self.register_buffer("blocks", empty)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Matrices, rows and columns."""
        return self.count, self.rows, self.columns

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks."""
        return self.blocks.nbytes

    def store(self, index: int, first: int, groups: Groups) -> None:
        """Pack rows into matrix `index` from row `first`, a multiple of 16, on.

        The last rows of a matrix may be fewer than a block's; otherwise their number is a multiple of 16 too.
        """
        count = len(groups.codes)
        if first % ROWS or (count % ROWS and first + count != self.rows):
            raise ValueError(f"rows {first} to {first + count} of {self.rows} are not whole blocks")
        start = index * self.row_blocks + first // ROWS
        pack(groups, self.blocks[start : start + -(-count // ROWS)])

    def __getitem__(self, index: int) -> Tensor:
        """Matrix `index`, (rows, columns) in `dtype`."""
        matrix = torch.empty((self.rows, self.columns), dtype=self.dtype, device=self.blocks.device)
        for first, values in self.chunks(index):
            matrix[first : first + len(values)] = values
        return matrix

    def chunks(self, index: int = 0) -> Iterator[tuple[int, Tensor]]:
        """The rows of matrix `index` in float32, a bounded number at a time, each with the first one's number."""
        at_once = _VALUES_AT_ONCE if self.blocks.device.type == "cpu" else _DEVICE_VALUES_AT_ONCE
        step = max(1, at_once // (ROWS * COLUMNS * self.blocks.shape[1]))
        for block in range(0, self.row_blocks, step):
            start, stop = index * self.row_blocks + block, index * self.row_blocks + min(block + step, self.row_blocks)
            values = unpack(self.bits, self.blocks[start:stop]).values()
            yield block * ROWS, values[: self.rows - block * ROWS, : self.columns]

    def take(self, rows: Tensor) -> Tensor:
        """Some rows of the first matrix, (len(rows), columns) in `dtype`."""
        picked = self.blocks[rows // ROWS]  # (N, G, bytes)
        groups = unpack(self.bits, picked)
        # Each row's block was unpacked whole: row n of the result is row 16 n + its place in the block.
        places = torch.arange(len(rows), device=rows.device) * ROWS + rows % ROWS
        return groups.values()[places, : self.columns].to(self.dtype)


class QuantisedLinear(nn.Module):
    """`nn.Linear` over a packed matrix."""

    bias: Tensor | None

    def __init__(self, matrix: PackedMatrix, *, bias: bool = False) -> None:
        """With a `bias`, its values are to be assigned."""
        super().__init__()
        self.matrix = matrix
        self.in_features, self.out_features = matrix.columns, matrix.rows
        empty = torch.empty(matrix.rows, dtype=matrix.dtype, device=matrix.blocks.device) if bias else None
        self.register_parameter("bias", None if empty is None else nn.Parameter(empty, requires_grad=False))

    @property
    def weight(self) -> Tensor:
        """The dequantised matrix (out, in), made anew each time it is asked for."""
        return self.matrix[0]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        out = torch.cat([F.linear(x, rows.to(x.dtype)) for _, rows in self.matrix.chunks()], dim=-1)
        return out if self.bias is None else out + self.bias


class QuantisedEmbedding(nn.Module):
    """`nn.Embedding` over a packed matrix, which may be that of the output head too."""

    def __init__(self, matrix: PackedMatrix) -> None:
        super().__init__()
        self.matrix = matrix
        self.num_embeddings, self.embedding_dim = matrix.rows, matrix.columns

    @property
    def weight(self) -> Tensor:
        """The dequantised matrix (tokens, size), made anew each time it is asked for."""
        return self.matrix[0]

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., size)."""
        return self.matrix.take(ids.flatten()).view(*ids.shape, -1)


def pack(groups: Groups, into: Tensor) -> None:
    """Put rows into blocks `into` (R, G, bytes); rows that are lacking become zeros."""
    blocks, width, _ = into.shape
    bits, split = groups.bits, _CODE_BYTES[groups.bits]
    codes = _padded(groups.codes, width * COLUMNS, blocks * ROWS)
    # (R, G, 8 fours of columns, 16 rows, 4)
    codes = codes.view(blocks, ROWS, width, 8, 4).permute(0, 2, 3, 1, 4)
    if bits == 4:
        codes = codes[:, :, 0::2] | codes[:, :, 1::2] << 4
    into[:, :, :split] = codes.reshape(blocks, width, split)
    for place, numbers in enumerate(groups.tails):
        rows = _padded(numbers, width, blocks * ROWS).view(blocks, ROWS, width).transpose(1, 2).contiguous()
        start = split + 2 * ROWS * place
        into[:, :, start : start + 2 * ROWS] = rows.view(torch.uint8).view(blocks, width, 2 * ROWS)


def unpack(bits: Bits, blocks: Tensor) -> Groups:
    """The rows of `blocks` (R, G, bytes), padding and all."""
    count, width, _ = blocks.shape
    split = _CODE_BYTES[bits]
    codes = blocks[:, :, :split].reshape(count, width, -1, 1, ROWS, 4)
    if bits == 4:
        codes = torch.cat((codes & 15, codes >> 4), dim=3)  # (R, G, 4, 2, 16, 4)
    codes = codes.reshape(count, width, 8, ROWS, 4).permute(0, 3, 1, 2, 4).reshape(count * ROWS, width * COLUMNS)
    tails = [
        blocks[:, :, start : start + 2 * ROWS]
        .contiguous()
        .view(torch.float16)
        .transpose(1, 2)
        .reshape(count * ROWS, width)
        for start in range(split, blocks.shape[2], 2 * ROWS)
    ]
    return Groups(codes, tails[0], tails[1] if bits == 4 else None)


def _padded(values: Tensor, columns: int, rows: int | None = None) -> Tensor:
    missing = columns - values.shape[1], 0 if rows is None else rows - len(values)
    return F.pad(values, (0, missing[0], 0, missing[1])) if any(missing) else values
