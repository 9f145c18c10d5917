"""Weights of 4 or 8 bits: some columns of a row share a scale, and they lie as a processor reads them fastest.

How they lie is told in `llmcli.model.quantized.layout`.

Dimension letters: N rows, C columns, G groups of a row, R blocks of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.model.huge_pages import Pages
from llmcli.model.quantized.layout import COLUMNS, ROWS, Bits, PackedFormat, Views

# Values that torch dequantizes at a time, in float32: 4 MiB. On a GPU, where each piece costs a dozen launches: 64 MiB.
_VALUES_AT_ONCE = 1 << 20
DEVICE_VALUES_AT_ONCE = 1 << 24
UNPACKED_BYTES = 12
"""Of a value that torch dequantizes on a device: it is there as a code, as float32 and in the type asked for."""


@dataclass(frozen=True)
class Groups:
    """Rows of codes, with the scale (and, with 4 bits, the minimum) of each group of them."""

    codes: Tensor
    """(N, C) uint8: 0 to 15, or the number plus 128."""
    scale: Tensor
    """(N, G) float16; float32 of whole rows."""
    minimum: Tensor | None
    """(N, G) float16 with 4 bits, None with 8."""
    group: int | None = COLUMNS
    """Columns of each; None: all."""

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: slice) -> Groups:
        return self.with_rows(lambda numbers: numbers[rows])

    def followed_by(self, other: Groups) -> Groups:
        """These rows and then those, of as many bits."""
        both = None if self.minimum is None or other.minimum is None else torch.cat((self.minimum, other.minimum))
        return Groups(torch.cat((self.codes, other.codes)), torch.cat((self.scale, other.scale)), both, self.group)

    def with_rows(self, change: Callable[[Tensor], Tensor]) -> Groups:
        """With the same `change` made to the rows of all numbers: another order, another device."""
        minimum = None if self.minimum is None else change(self.minimum)
        return Groups(change(self.codes), change(self.scale), minimum, self.group)

    def in_groups_of(self, columns: int) -> Groups:
        """The same, where so many columns already have the same scale and minimum."""
        assert self.group is not None and columns % self.group == 0
        step = columns // self.group
        minimum = None if self.minimum is None else self.minimum[:, ::step]
        return Groups(self.codes, self.scale[:, ::step], minimum, columns)

    @property
    def kind(self) -> tuple[Bits, int | None]:
        """Bits of a code, and columns of a group."""
        return (8 if self.minimum is None else 4), self.group

    @property
    def tails(self) -> tuple[Tensor, ...]:
        """What stands behind the codes of a block."""
        return (self.scale,) if self.minimum is None else (self.scale, self.minimum)

    def values(self) -> Tensor:
        """What they stand for: float32 (N, C)."""
        columns = self.codes.shape[1]
        width = self.group or columns
        codes = _padded(self.codes, self.scale.shape[1] * width).view(*self.scale.shape, width).float()
        if self.minimum is None:
            values = codes.sub_(128).mul_(self.scale.float()[..., None])
        else:
            values = codes.mul_(self.scale.float()[..., None]).add_(self.minimum.float()[..., None])
        return values.flatten(1)[:, :columns]


class Unpacker(Protocol):
    """A way to dequantize that is faster than torch's, and gives the same to the last bit."""

    def ready(self, matrix: PackedMatrix, dtype: torch.dtype) -> bool:
        """Whether it can give rows of the matrix in that type, now."""

    def awaited(self, matrix: PackedMatrix, dtype: torch.dtype) -> bool:
        """Whether it cannot yet, but may soon."""

    def unpack(self, matrix: PackedMatrix, index: int, first: int, into: Tensor) -> None:
        """Fill `into` (n, columns) with rows of matrix `index` from `first` on, a multiple of 16; it must be ready."""


class PackedMatrix(nn.Module):
    """A matrix, or a stack of them, in packed blocks."""

    blocks: Tensor
    """(count * R, B) uint8."""
    rest: Tensor
    """What is seldom needed of them, (count * R, B) uint8."""
    unpacker: Unpacker | None = None
    """Given by whoever has one for the device that the blocks are on."""

    def __init__(
        self,
        kept: PackedFormat,
        rows: int,
        columns: int,
        *,
        dtype: torch.dtype,
        count: int = 1,
        pages: Pages | None = None,
        device: torch.device | str = "cpu",
        values_at_once: int | None = None,
    ) -> None:
        """Memory for `count` matrices, not yet filled, from `pages` if given, and `kept` so; `dtype` is what they are
        handed out in. Torch dequantizes `values_at_once` at a time, or as many as suit the device.

        Raises:
            MemoryError: there is none; torch itself says so by a RuntimeError.
        """
        super().__init__()
        self.format, self.rows, self.columns, self.count, self.dtype = kept, rows, columns, count, dtype
        self.values_at_once = values_at_once
        self.row_blocks = -(-rows // kept.rows)
        for name, size in zip(("blocks", "rest"), kept.sizes(columns), strict=True):
            shape = count * self.row_blocks, size
            if pages is not None:
                empty = pages.empty(shape, torch.uint8)
            else:
                empty = torch.empty(shape, dtype=torch.uint8, device=device)
            self.register_buffer(name, empty)

    @property
    def bits(self) -> Bits:
        """Of each code."""
        return self.format.bits

    @property
    def shape(self) -> tuple[int, int, int]:
        """Matrices, rows and columns."""
        return self.count, self.rows, self.columns

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks and their rest."""
        return self.blocks.nbytes + self.rest.nbytes

    def store(self, index: int, first: int, groups: Groups) -> None:
        """Pack rows into matrix `index` from row `first`, a multiple of 16, on.

        The last rows of a matrix may be fewer than a block's; otherwise their number is a multiple of 16 too.
        """
        count = len(groups.codes)
        if groups.kind != (self.bits, self.format.group):
            raise ValueError(f"a matrix of {self.format} cannot hold groups of {groups.kind}")
        if first % ROWS or (count % ROWS and first + count != self.rows):
            raise ValueError(f"rows {first} to {first + count} of {self.rows} are not whole blocks")
        start = index * self.row_blocks + first // self.format.rows
        self._pack(groups, self._views(start, start + -(-count // self.format.rows)))

    def _views(self, start: int, stop: int) -> Views:
        return self.format.views(self.blocks[start:stop], self.rest[start:stop], self.columns)

    def _pack(self, groups: Groups, to: Views) -> None:
        """Put rows into blocks of as many; those that are lacking become zeros."""
        kept, blocks, number = self.format, len(to.codes[0]), groups.scale.shape[1]
        rows = blocks * kept.rows
        codes = _padded(groups.codes, kept.padded(self.columns), rows).view(blocks, kept.rows, number, -1)
        tails = [_padded(numbers, number, rows).view(blocks, kept.rows, number) for numbers in groups.tails]
        kept.write(to, codes, torch.stack(tails, dim=-1).permute(0, 2, 3, 1))

    def __getitem__(self, index: int) -> Tensor:
        """Matrix `index`, (rows, columns) in `dtype`."""
        matrix = torch.empty((self.rows, self.columns), dtype=self.dtype, device=self.blocks.device)
        if (unpacker := self._ready(self.dtype)) is not None:
            unpacker.unpack(self, index, 0, matrix)
        else:
            for first, values in self._values(index):
                matrix[first : first + len(values)] = values
        return matrix

    def dense(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """The rows of the first matrix in `dtype`, a bounded number at a time."""
        unpacker = self._ready(dtype)
        if unpacker is None:
            yield from (values.to(dtype) for _, values in self._values(0))
            return
        # In as much memory as torch takes, which is enough for all but the largest matrices.
        at_once = UNPACKED_BYTES * (self.values_at_once or DEVICE_VALUES_AT_ONCE) // dtype.itemsize
        step = max(1, at_once // (ROWS * self.columns)) * ROWS
        yield from (self._rows(unpacker, first, step, dtype) for first in range(0, self.rows, step))

    def _ready(self, dtype: torch.dtype) -> Unpacker | None:
        return self.unpacker if self.unpacker is not None and self.unpacker.ready(self, dtype) else None

    def _rows(self, unpacker: Unpacker, first: int, most: int, dtype: torch.dtype) -> Tensor:
        # Memory of its own: gradients may need the rows when the next have been made.
        shape = min(most, self.rows - first), self.columns
        rows = torch.empty(shape, dtype=dtype, device=self.blocks.device)
        unpacker.unpack(self, 0, first, rows)
        return rows

    def _values(self, index: int) -> Iterator[tuple[int, Tensor]]:
        """The rows of matrix `index` in float32, a bounded number at a time, each with the first one's number."""
        suits = _VALUES_AT_ONCE if self.blocks.device.type == "cpu" else DEVICE_VALUES_AT_ONCE
        at_once = self.values_at_once or suits
        step = max(1, at_once // (self.format.rows * self.format.padded(self.columns)))
        for block in range(0, self.row_blocks, step):
            start, stop = index * self.row_blocks + block, index * self.row_blocks + min(block + step, self.row_blocks)
            values = self._unpack(self._views(start, stop)).values()
            yield block * self.format.rows, values[: self.rows - block * self.format.rows]

    def take(self, rows: Tensor) -> Tensor:
        """Some rows of the first matrix, (len(rows), columns) in `dtype`."""
        views = self.format.views(self.blocks, self.rest, self.columns)
        some = views.of_rows(rows // self.format.rows, rows % self.format.rows)
        return self._unpack(some).values().to(self.dtype)

    def _unpack(self, views: Views) -> Groups:
        """The rows of blocks, padding and all."""
        codes, numbers = self.format.read(views)
        rows, number = codes.shape[0] * codes.shape[1], codes.shape[2]
        tails = numbers.permute(2, 0, 3, 1).reshape(-1, rows, number)  # (1 or 2, N, G)
        in_rows = codes.view(rows, -1)[:, : self.columns]
        return Groups(in_rows, tails[0], tails[1] if self.bits == 4 else None, self.format.group)


class QuantizedLinear(nn.Module):
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
        """The dequantized matrix (out, in), made anew each time it is asked for."""
        return self.matrix[0]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        # Not by a comprehension, which would keep rows until the next ones are there.
        parts = list(map(partial(F.linear, x), self.matrix.dense(x.dtype)))
        out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return out if self.bias is None else out + self.bias


class QuantizedEmbedding(nn.Module):
    """`nn.Embedding` over a packed matrix, which may be that of the output head too."""

    def __init__(self, matrix: PackedMatrix) -> None:
        super().__init__()
        self.matrix = matrix
        self.num_embeddings, self.embedding_dim = matrix.rows, matrix.columns

    @property
    def weight(self) -> Tensor:
        """The dequantized matrix (tokens, size), made anew each time it is asked for."""
        return self.matrix[0]

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., size)."""
        return self.matrix.take(ids.flatten()).view(*ids.shape, -1)


def _padded(values: Tensor, columns: int, rows: int | None = None) -> Tensor:
    missing = columns - values.shape[1], 0 if rows is None else rows - len(values)
    return F.pad(values, (0, missing[0], 0, missing[1])) if any(missing) else values
