"""Read matrices straight into packed blocks, chunk by chunk of rows: in C where its packer may be used, else by torch.

Beside the packed weights only a few rows are in memory, as long as the model's rows are rows of the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from llmcli.checkpoint.load_packed import PACKING_SIZES, PackingSizes
from llmcli.checkpoint.quantized.base import QuantizedTensor
from llmcli.checkpoint.tensors.encodings import ENCODINGS
from llmcli.checkpoint.tensors.ggml.grids import grid_bytes
from llmcli.checkpoint.tensors.parameter_sources import ParameterSource
from llmcli.checkpoint.tensors.reader import TensorReader
from llmcli.checkpoint.tensors.repack import bits_of, groups_of
from llmcli.checkpoint.tensors.row_spans import RowSpan, spans_of
from llmcli.checkpoint.tensors.tensor_info import StoredTensor, TensorInfo
from llmcli.kernels.base import NoKernelError
from llmcli.kernels.cpu.repack import BlockPacker
from llmcli.model.quantized.layout import COLUMNS, ROWS
from llmcli.model.quantized.matrix import Groups, PackedMatrix
from llmcli.model.quantized.quantize import quantize


def block_packer() -> BlockPacker | None:
    """The C packer; None without a compiler: then torch packs, in up to ten times the time."""
    try:
        return BlockPacker(grid_bytes)
    except NoKernelError:
        return None


def read_packed(
    source: ParameterSource,
    stored: Mapping[str, StoredTensor],
    reader: TensorReader,
    to: PackedMatrix,
    packer: BlockPacker | None = None,
    sizes: PackingSizes = PACKING_SIZES,
) -> None:
    """Fill `to` with the parameter that `source` describes, by `packer` if given and `to` has a format of the CPU.

    Raises:
        CheckpointError: the file ends too early, cannot be read, or does not match its declared shape.
    """
    if to.format.wide:
        packer = None
    values_at_once = sizes.values if to.blocks.device.type == "cpu" else sizes.device_values
    spans = list(spans_of(source, stored))
    if not spans:
        # Rows of the matrix are not rows in the file (a transposed matrix, for example): read the whole matrix first.
        whole = torch.empty(source.shape(stored), dtype=torch.float32)
        source.read_into(stored, reader, whole)
        for index, values in enumerate(whole.view(to.shape)):
            for first in range(0, to.rows, step := _rows_at_once(to, values_at_once)):
                part = values[first : first + step].to(to.blocks.device)
                if packer is not None:
                    packer.pack("F32", _bytes_of(part), to, index, first)
                else:
                    to.store(index, first, quantize(part, to.format))
        return
    for index in range(to.count):
        parts = [span for span in spans if span.index == index]
        if packer is not None and not any(_has_codes(span.tensor, to) or _cuts_blocks(span) for span in parts):
            _pack_all(packer, parts, reader, to, index, values_at_once)
        else:
            rows = (groups for span in parts for groups in _groups(span, reader, to, values_at_once))
            _store_all(to, index, rows)


def _rows_at_once(to: PackedMatrix, values_at_once: int, multiple: int = ROWS) -> int:
    """The number of rows packed at once, a multiple of `multiple`."""
    return max(1, values_at_once // (to.columns * multiple)) * multiple


def _chunks(span: RowSpan, to: PackedMatrix, values_at_once: int) -> Iterator[tuple[int, int]]:
    """Yield the row ranges (start, stop) that are read at once."""
    step = _rows_at_once(to, values_at_once, ROWS if span.pairs is None else math.lcm(ROWS, span.pairs.head_dim))
    for start in range(span.start, span.stop, step):
        yield start, min(start + step, span.stop)


def _pack_all(
    packer: BlockPacker,
    spans: list[RowSpan],
    reader: TensorReader,
    to: PackedMatrix,
    index: int,
    values_at_once: int,
) -> None:
    """Pack the rows of `spans` into matrix `index` of `to`, from their stored bytes if `packer` knows the encoding."""
    first = 0
    for span in spans:
        tensor = span.tensor
        for start, stop in _chunks(span, to, values_at_once):
            if isinstance(tensor, TensorInfo) and packer.knows(tensor.encoding, to.format) and _has_whole_blocks(span):
                encoding, raw = tensor.encoding, _wanted_blocks(span, reader.read_blocks(tensor, start, stop))
            else:
                encoding, raw = "F32", _bytes_of(_wanted(span, tensor.read_rows(reader, start, stop)).float())
            order = None if span.pairs is None else span.pairs.order(stop - start)
            packer.pack(encoding, raw, to, index, first, order)
            first += stop - start


def _bytes_of(rows: Tensor) -> Tensor:
    """The bytes of float32 rows (N, C), uint8 (N, C, 4)."""
    return rows.contiguous().view(torch.uint8).view(*rows.shape, -1)


def _has_whole_blocks(span: RowSpan) -> bool:
    """Whether the columns of `span` are whole blocks of a file's rows."""
    if span.columns is None or span.tensor.encoding not in ENCODINGS:
        return span.columns is None
    return all(column % ENCODINGS[span.tensor.encoding].block_size == 0 for column in span.columns)


def _cuts_blocks(span: RowSpan) -> bool:
    """Whether blocks of packed codes are cut, whose groups are whole."""
    return (
        isinstance(span.tensor, TensorInfo)
        and bits_of(span.tensor.encoding) is not None
        and not _has_whole_blocks(span)
    )


def _wanted_blocks(span: RowSpan, raw: Tensor) -> Tensor:
    """The blocks of `raw` (rows, blocks, block bytes) that have the columns of `span`."""
    if span.columns is None:
        return raw
    size = ENCODINGS[span.tensor.encoding].block_size
    return raw[:, span.columns[0] // size : span.columns[1] // size].contiguous()


def _wanted(span: RowSpan, rows: Tensor) -> Tensor:
    """The columns of `rows` (N, C) that `span` needs."""
    return rows if span.columns is None else rows[:, slice(*span.columns)]


def _has_codes(tensor: StoredTensor, to: PackedMatrix) -> bool:
    """Whether a tensor is stored as codes that are kept."""
    return isinstance(tensor, QuantizedTensor) and tensor.groups is not None and to.bits == tensor.bits


def _groups(span: RowSpan, reader: TensorReader, to: PackedMatrix, values_at_once: int) -> Iterator[Groups]:
    tensor, device = span.tensor, to.blocks.device

    def ordered(rows: Tensor) -> Tensor:
        # Move the bytes and numbers as they are stored, and reorder them on the device.
        rows = rows.to(device)
        return rows if span.pairs is None else span.pairs.reordered(rows)

    def wanted(groups: Groups) -> Groups:
        return groups if span.columns is None else groups.of_columns(*span.columns)

    for start, stop in _chunks(span, to, values_at_once):
        if isinstance(tensor, TensorInfo) and (to.bits, to.format.group) == (bits_of(tensor.encoding), COLUMNS):
            raw = reader.read_blocks(tensor, start, stop)
            yield wanted(groups_of(tensor.encoding, ordered(raw.flatten(1)).view(raw.shape)))
        elif _has_codes(tensor, to):
            assert isinstance(tensor, QuantizedTensor) and tensor.groups is not None
            groups = wanted(tensor.groups(reader, start, stop))
            yield groups.in_groups_of(to.format.group or COLUMNS).with_rows(ordered)
        else:
            yield quantize(ordered(_wanted(span, tensor.read_rows(reader, start, stop))), to.format)


def _store_all(to: PackedMatrix, index: int, parts: Iterator[Groups]) -> None:
    """Store parts of any number of rows one after another: whole row groups at once, then the rest."""
    row, rest = 0, None
    for part in parts:
        rows = part if rest is None else rest.followed_by(part)
        whole = len(rows) // ROWS * ROWS
        if whole:
            to.store(index, row, rows[:whole])
            row += whole
        rest = rows[whole:] if whole < len(rows) else None
    if rest is not None:
        to.store(index, row, rest)
