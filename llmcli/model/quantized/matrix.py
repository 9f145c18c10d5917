"""Matrices of 4 or 8 bits a weight, packed in blocks in the order in which a processor reads them fastest.

A group of columns of a row shares a scale. `llmcli.model.quantized.layout` describes the blocks.

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

from llmcli.model.cache.huge_pages import Pages
from llmcli.model.quantized.layout import COLUMNS, ROWS, Bits, PackedFormat, Views

# Values that torch dequantizes at a time, in float32: 4 MiB. 64 MiB on a GPU, where each piece costs a dozen launches.
_VALUES_AT_ONCE = 1 << 20
DEVICE_VALUES_AT_ONCE = 1 << 24
UNPACKED_BYTES = 12
"""Bytes per value that torch needs to dequantize on a device: the code, float32 and the requested type."""


@dataclass(frozen=True)
class Groups:
    """Rows of quantized weights: codes, with the scale (and for 4 bits the minimum) of each group of columns."""

    codes: Tensor
    """(N, C) uint8: 0 to 15 for 4 bits, or the signed number plus 128 for 8."""
    scale: Tensor
    """(N, G) float16; float32 where a group is a whole row."""
    minimum: Tensor | None
    """(N, G) float16 for 4 bits, None for 8."""
    group: int | None = COLUMNS
    """Columns of a group; None: the whole row."""

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: slice) -> Groups:
        return self.with_rows(lambda numbers: numbers[rows])

    def followed_by(self, other: Groups) -> Groups:
        """Concatenate the rows of two `Groups` of the same kind."""
        both = None if self.minimum is None or other.minimum is None else torch.cat((self.minimum, other.minimum))
        return Groups(torch.cat((self.codes, other.codes)), torch.cat((self.scale, other.scale)), both, self.group)

    def with_rows(self, change: Callable[[Tensor], Tensor]) -> Groups:
        """Apply `change` to codes, scales and minima: to reorder rows or move them to another device."""
        minimum = None if self.minimum is None else change(self.minimum)
        return Groups(change(self.codes), change(self.scale), minimum, self.group)

    def of_columns(self, start: int, stop: int) -> Groups:
        """Columns `start` to `stop`, which must not cut a group."""
        if self.group is None:
            return Groups(self.codes[:, start:stop], self.scale, self.minimum, None)
        if start % self.group or (stop % self.group and stop != self.codes.shape[1]):
            raise ValueError(f"columns {start} to {stop} are not whole groups of {self.group}")
        groups = slice(start // self.group, -(-stop // self.group))
        minimum = None if self.minimum is None else self.minimum[:, groups]
        return Groups(self.codes[:, start:stop], self.scale[:, groups], minimum, self.group)

    def in_groups_of(self, columns: int) -> Groups:
        """The same weights in longer groups, where every `columns` columns already share a scale and minimum."""
        assert self.group is not None and columns % self.group == 0
        step = columns // self.group
        minimum = None if self.minimum is None else self.minimum[:, ::step]
        return Groups(self.codes, self.scale[:, ::step], minimum, columns)

    @property
    def kind(self) -> tuple[Bits, int | None]:
        """Bits of a code, and columns of a group."""
        return (8 if self.minimum is None else 4), self.group

    @property
    def scales_and_minima(self) -> tuple[Tensor, ...]:
        """The scale, and the minimum if there is one."""
        return (self.scale,) if self.minimum is None else (self.scale, self.minimum)

    def values(self) -> Tensor:
        """The dequantized weights: float32 (N, C)."""
        columns = self.codes.shape[1]
        width = self.group or columns
        codes = _padded(self.codes, self.scale.shape[1] * width).view(*self.scale.shape, width).float()
        if self.minimum is None:
            values = codes.sub_(128).mul_(self.scale.float()[..., None])
        else:
            values = codes.mul_(self.scale.float()[..., None]).add_(self.minimum.float()[..., None])
        return values.flatten(1)[:, :columns]


class Unpacker(Protocol):
    """A faster way to dequantize than torch's, with the same result to the last bit."""

    def ready(self, matrix: PackedMatrix, dtype: torch.dtype) -> bool:
        """Whether `unpack` can dequantize this matrix to this type now."""

    def pending(self, matrix: PackedMatrix, dtype: torch.dtype) -> bool:
        """Whether it is not ready yet, but may be soon: its kernels are compiling."""

    def unpack(self, matrix: PackedMatrix, index: int, first: int, into: Tensor) -> None:
        """Dequantize rows of matrix `index` into `into` (n, columns), from row `first`, a multiple of 16, on.

        The matrix must be `ready` for the type of `into`.
        """


class PackedMatrix(nn.Module):
    """A quantized matrix, or a stack of `count` matrices of one shape, in packed blocks."""

    blocks: Tensor
    """(count * R, B) uint8."""
    unpacker: Unpacker | None = None
    """Set by the kernels of the blocks' device, if they have one; None: torch dequantizes."""

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
        """Allocate memory for `count` matrices in the format `kept`, from `pages` if given, without filling it.

        They are dequantized to `dtype`. Torch dequantizes `values_at_once` values at a time, by default a number that
        suits the device.

        Raises:
            MemoryError: `pages` has no memory left.
            RuntimeError: torch has no memory left.
        """
        super().__init__()
        self.format, self.rows, self.columns, self.count, self.dtype = kept, rows, columns, count, dtype
        self.values_at_once = values_at_once
        self.row_blocks = -(-rows // kept.rows)
        shape = count * self.row_blocks, kept.block_bytes(columns)
        if pages is not None:
            empty = pages.empty(shape, torch.uint8)
        else:
            empty = torch.empty(shape, dtype=torch.uint8, device=device)
        self.register_buffer("blocks", empty)

    @property
    def bits(self) -> Bits:
        """Bits of a code."""
        return self.format.bits

    @property
    def shape(self) -> tuple[int, int, int]:
        """Matrices, rows and columns."""
        return self.count, self.rows, self.columns

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights."""
        return self.blocks.nbytes

    def store(self, index: int, first: int, groups: Groups) -> None:
        """Pack rows into matrix `index`, from row `first`, a multiple of 16, on.

        Their number must be a multiple of 16 too, unless they are the last rows of the matrix.

        Raises:
            ValueError: the groups have another format, or the rows do not fill whole blocks.
        """
        count = len(groups.codes)
        if groups.kind != (self.bits, self.format.group):
            raise ValueError(f"a matrix of {self.format} cannot hold groups of {groups.kind}")
        if first % ROWS or (count % ROWS and first + count != self.rows):
            raise ValueError(f"rows {first} to {first + count} of {self.rows} are not whole blocks")
        start = index * self.row_blocks + first // self.format.rows
        self._pack(groups, self._views(start, start + -(-count // self.format.rows)))

    def _views(self, start: int, stop: int) -> Views:
        return self.format.views(self.blocks[start:stop], self.columns)

    def _pack(self, groups: Groups, to: Views) -> None:
        """Write rows into blocks, with zeros for rows that are missing in the last block."""
        kept, blocks, number = self.format, len(to.codes), groups.scale.shape[1]
        rows = blocks * kept.rows
        codes = _padded(groups.codes, kept.padded(self.columns), rows).view(blocks, kept.rows, number, -1)
        scales_and_minima = [
            _padded(numbers, number, rows).view(blocks, kept.rows, number) for numbers in groups.scales_and_minima
        ]
        kept.write(to, codes, torch.stack(scales_and_minima, dim=-1).permute(0, 2, 3, 1))

    def __getitem__(self, index: int) -> Tensor:
        """Dequantize matrix `index`: (rows, columns) in `dtype`."""
        matrix = torch.empty((self.rows, self.columns), dtype=self.dtype, device=self.blocks.device)
        if (unpacker := self._ready(self.dtype)) is not None:
            unpacker.unpack(self, index, 0, matrix)
        else:
            for first, values in self._values(index):
                matrix[first : first + len(values)] = values
        return matrix

    def dense(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """Dequantize the rows of the first matrix to `dtype`, a bounded number at a time."""
        unpacker = self._ready(dtype)
        if unpacker is None:
            yield from (values.to(dtype) for _, values in self._values(0))
            return
        # In the same memory as torch would need, which is enough for all but the largest matrices.
        at_once = UNPACKED_BYTES * (self.values_at_once or DEVICE_VALUES_AT_ONCE) // dtype.itemsize
        step = max(1, at_once // (ROWS * self.columns)) * ROWS
        yield from (self._rows(unpacker, first, step, dtype) for first in range(0, self.rows, step))

    def _ready(self, dtype: torch.dtype) -> Unpacker | None:
        return self.unpacker if self.unpacker is not None and self.unpacker.ready(self, dtype) else None

    def _rows(self, unpacker: Unpacker, first: int, most: int, dtype: torch.dtype) -> Tensor:
        # New memory each time: gradients may need these rows after the next ones are computed.
        shape = min(most, self.rows - first), self.columns
        rows = torch.empty(shape, dtype=dtype, device=self.blocks.device)
        unpacker.unpack(self, 0, first, rows)
        return rows

    def _values(self, index: int) -> Iterator[tuple[int, Tensor]]:
        """Dequantize matrix `index` with torch: first row and rows in float32, a bounded number at a time."""
        suits = _VALUES_AT_ONCE if self.blocks.device.type == "cpu" else DEVICE_VALUES_AT_ONCE
        at_once = self.values_at_once or suits
        step = max(1, at_once // (self.format.rows * self.format.padded(self.columns)))
        for block in range(0, self.row_blocks, step):
            start, stop = index * self.row_blocks + block, index * self.row_blocks + min(block + step, self.row_blocks)
            values = self._unpack(self._views(start, stop)).values()
            yield block * self.format.rows, values[: self.rows - block * self.format.rows]

    def take(self, rows: Tensor) -> Tensor:
        """Dequantize the given rows of the first matrix: (len(rows), columns) in `dtype`."""
        views = self.format.views(self.blocks, self.columns)
        some = views.of_rows(rows // self.format.rows, rows % self.format.rows)
        return self._unpack(some).values().to(self.dtype)

    def _unpack(self, views: Views) -> Groups:
        """The rows in blocks, padding rows included."""
        codes, numbers = self.format.read(views)
        rows, number = codes.shape[0] * codes.shape[1], codes.shape[2]
        parts = numbers.permute(2, 0, 3, 1).reshape(-1, rows, number)  # (1 or 2, N, G): scales and minima
        in_rows = codes.view(rows, -1)[:, : self.columns]
        return Groups(in_rows, parts[0], parts[1] if self.bits == 4 else None, self.format.group)


class QuantizedLinear(nn.Module):
    """`nn.Linear` over a packed matrix."""

    bias: Tensor | None

    def __init__(self, matrix: PackedMatrix, *, bias: bool = False) -> None:
        """With `bias`, the caller must fill the bias parameter."""
        super().__init__()
        self.matrix = matrix
        self.in_features, self.out_features = matrix.columns, matrix.rows
        empty = torch.empty(matrix.rows, dtype=matrix.dtype, device=matrix.blocks.device) if bias else None
        self.register_parameter("bias", None if empty is None else nn.Parameter(empty, requires_grad=False))

    @property
    def weight(self) -> Tensor:
        """The dequantized matrix (out, in), computed at each access."""
        return self.matrix[0]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        # Not in a comprehension, whose variable would keep dequantized rows until the next are computed.
        parts = list(map(partial(F.linear, x), self.matrix.dense(x.dtype)))
        out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return out if self.bias is None else out + self.bias


class QuantizedEmbedding(nn.Module):
    """`nn.Embedding` over a packed matrix, which the output head may share."""

    def __init__(self, matrix: PackedMatrix) -> None:
        super().__init__()
        self.matrix = matrix
        self.num_embeddings, self.embedding_dim = matrix.rows, matrix.columns

    @property
    def weight(self) -> Tensor:
        """The dequantized matrix (tokens, size), computed at each access."""
        return self.matrix[0]

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., size)."""
        return self.matrix.take(ids.flatten()).view(*ids.shape, -1)


def _padded(values: Tensor, columns: int, rows: int | None = None) -> Tensor:
    missing = columns - values.shape[1], 0 if rows is None else rows - len(values)
    return F.pad(values, (0, missing[0], 0, missing[1])) if any(missing) else values
