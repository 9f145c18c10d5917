"""Blocks repacked in C equal those repacked by torch, bit for bit."""

from __future__ import annotations

import pytest
import torch

from llmcli.checkpoint.tensors.encodings import ENCODINGS
from llmcli.checkpoint.tensors.repack import groups_of
from llmcli.kernels.cpu.build import Variant, load_library
from llmcli.kernels.cpu.repack import BlockPacker
from llmcli.model.quantized.layout import narrow, wide
from llmcli.model.quantized.matrix import PackedMatrix
from tests.support.kernels.packed_blocks import FORMATS, any_blocks, empty_matrix


def held_by(matrix: PackedMatrix) -> list[torch.Tensor]:
    """The bytes of a matrix without the padding at the end of each row block's scales."""
    views = matrix.format.views(matrix.blocks, matrix.columns)
    return [part.contiguous().view(torch.uint8) for part in (views.codes, views.numbers)]


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert all(torch.equal(*parts) for parts in zip(found, expected, strict=True))


def packed_by_torch(name: str, raw: torch.Tensor, columns: int) -> PackedMatrix:
    matrix = empty_matrix(name, len(raw), columns)
    matrix.store(0, 0, groups_of(name, raw))
    return matrix


def test_formats_without_rounding_are_repacked_in_c() -> None:
    assert {"Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q8_0", "IQ4_NL"} <= set(FORMATS)
    assert not BlockPacker.knows("Q4_0", narrow(8)) and not BlockPacker.knows("Q6_K", narrow(8))
    assert not BlockPacker.knows("Q4_0", wide(4))


@pytest.mark.parametrize("variant", ["native", "portable"])
@pytest.mark.parametrize("rows", [64, 1, 41])
@pytest.mark.parametrize("name", FORMATS)
def test_blocks_equal_torchs_bit_for_bit(name: str, rows: int, variant: Variant) -> None:
    columns = 2 * max(32, ENCODINGS[name].block_size)
    raw = any_blocks(name, rows, columns)
    matrix = empty_matrix(name, rows, columns)
    BlockPacker(load_library(variant)).pack(name, raw, matrix, 0, 0)
    assert_same(held_by(matrix), held_by(packed_by_torch(name, raw, columns)))


@pytest.mark.parametrize("name", ["Q4_1", "Q8_0"])
def test_parts_are_repacked_in_any_order_of_rows(name: str) -> None:
    raw = any_blocks(name, 50, 96)
    matrix = empty_matrix(name, 50, 96, count=2)
    packer = BlockPacker()
    generator = torch.Generator().manual_seed(3)
    place, expected = 0, []
    for size in (5, 16, 20, 9):
        part, order = raw[place : place + size], torch.randperm(size, generator=generator)
        packer.pack(name, part, matrix, 1, place, order.tolist())
        expected.append(part[order])
        place += size
    by_torch = packed_by_torch(name, torch.cat(expected), 96)
    assert_same([part[4:] for part in held_by(matrix)], held_by(by_torch))
    assert (matrix.blocks[:4] == 0xA5).all()


@pytest.mark.parametrize(
    ("change", "index", "first"),
    [({}, 2, 0), ({}, 0, 31), ({}, 0, -1), ({"columns": 96}, 0, 0), ({"name": "Q8_0"}, 0, 0)],
)
def test_blocks_that_do_not_fit_are_refused(change: dict[str, object], index: int, first: int) -> None:
    matrix = empty_matrix("Q4_1", 40, 64, count=2)
    made = {"name": "Q4_1", "rows": 10, "columns": 64} | change
    with pytest.raises(ValueError, match="do not fit"):
        BlockPacker().pack(str(made["name"]), any_blocks(**made), matrix, index, first)  # type: ignore[arg-type]
    for order in (range(9), range(1, 11), [0] * 10):
        with pytest.raises(ValueError, match="not a permutation"):
            BlockPacker().pack("Q4_1", any_blocks("Q4_1", 10, 64), matrix, 0, 0, order)
    assert (matrix.blocks == 0xA5).all()
