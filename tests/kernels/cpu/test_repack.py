"""Weights packed in C equal those packed by torch, bit for bit."""

from __future__ import annotations

import pytest
import torch

from llmcli.checkpoint.tensors.encodings import ENCODINGS
from llmcli.checkpoint.tensors.repack import bits_of, groups_of
from llmcli.kernels.cpu.build import Variant
from llmcli.kernels.cpu.repack import BlockPacker
from llmcli.model.quantized.layout import BITS, Bits, narrow, wide
from llmcli.model.quantized.matrix import PackedMatrix
from llmcli.model.quantized.quantize import quantize
from tests.support.kernels.packed_blocks import FORMATS, any_blocks, empty_matrix, packer, sound_blocks

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def held_by(matrix: PackedMatrix) -> list[torch.Tensor]:
    """The bytes of a matrix without the padding at the end of each row block's scales."""
    views = matrix.format.views(matrix.blocks, matrix.columns)
    return [part.contiguous().view(torch.uint8) for part in (views.codes, views.numbers)]


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert all(torch.equal(*parts) for parts in zip(found, expected, strict=True))


def packed_by_torch(name: str, raw: torch.Tensor, columns: int, bits: Bits | None = None) -> PackedMatrix:
    matrix = empty_matrix(name, len(raw), columns, bits=bits)
    if bits in (None, bits_of(name)):
        matrix.store(0, 0, groups_of(name, raw))
    else:
        values = ENCODINGS[name].decode(raw.flatten(0, 1)).view(len(raw), -1)
        matrix.store(0, 0, quantize(values, matrix.format))
    return matrix


def plain(name: str, rows: int, columns: int, value: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of many sizes, and their bytes as rows of blocks of one value."""
    generator = torch.Generator().manual_seed(5)
    values = torch.randn(rows, columns, generator=generator) * torch.logspace(-4, 3, rows)[:, None]
    values[rows // 2] = 0
    if value is not None:
        values[-1, columns // 2] = value
    values = values.to(PLAIN[name])
    return values, values.view(torch.uint8).view(rows, columns, -1)


def test_every_block_format_is_packed_in_c() -> None:
    for name in (*FORMATS, *PLAIN):
        assert all(BlockPacker.knows(name, narrow(bits)) and not BlockPacker.knows(name, wide(bits)) for bits in BITS)
    assert not BlockPacker.knows("I8", narrow(8))


@pytest.mark.parametrize("variant", ["native", "portable"])
@pytest.mark.parametrize("rows", [64, 1, 41])
@pytest.mark.parametrize("name", FORMATS)
def test_blocks_equal_torchs_bit_for_bit(name: str, rows: int, variant: Variant) -> None:
    columns = 2 * max(32, ENCODINGS[name].block_size)
    raw = any_blocks(name, rows, columns)
    matrix = empty_matrix(name, rows, columns)
    packer(variant).pack(name, raw, matrix, 0, 0)
    assert_same(held_by(matrix), held_by(packed_by_torch(name, raw, columns)))


@pytest.mark.parametrize("name", FORMATS)
def test_blocks_of_4_bits_are_rounded_to_8_like_torchs(name: str) -> None:
    columns = ENCODINGS[name].block_size
    raw = sound_blocks(name, 20, 1)
    matrix = empty_matrix(name, 20, columns, bits=8)
    packer().pack(name, raw, matrix, 0, 0)
    assert_same(held_by(matrix), held_by(packed_by_torch(name, raw, columns, 8)))


@pytest.mark.parametrize("variant", ["native", "portable"])
@pytest.mark.parametrize(("rows", "columns"), [(64, 96), (41, 50), (1, 1), (17, 33)])
@pytest.mark.parametrize("name", PLAIN)
def test_plain_numbers_are_rounded_to_8_bits_like_torchs(name: str, rows: int, columns: int, variant: Variant) -> None:
    values, raw = plain(name, rows, columns)
    matrix, expected = empty_matrix(name, rows, columns, bits=8), empty_matrix(name, rows, columns, bits=8)
    packer(variant).pack(name, raw, matrix, 0, 0)
    expected.store(0, 0, quantize(values, narrow(8)))
    assert_same(held_by(matrix), held_by(expected))


@pytest.mark.parametrize("variant", ["native", "portable"])
@pytest.mark.parametrize(("rows", "columns"), [(64, 512), (41, 50), (1, 1)])
@pytest.mark.parametrize("name", PLAIN)
def test_plain_numbers_are_rounded_to_4_bits_as_well_as_by_torch(
    name: str, rows: int, columns: int, variant: Variant
) -> None:
    values, raw = plain(name, rows, columns)
    matrix, by_torch = empty_matrix(name, rows, columns, bits=4), empty_matrix(name, rows, columns, bits=4)
    packer(variant).pack(name, raw, matrix, 0, 0)
    by_torch.store(0, 0, quantize(values, narrow(4)))
    # Sums in another order: another choice where errors are nearly the same.
    ours, theirs = (
        float((packed[0] - values.float()).norm(dim=1).div(values.float().norm(dim=1).clamp(min=1e-9)).sum())
        for packed in (matrix, by_torch)
    )
    assert ours <= theirs * 1.0002 + 1e-6
    differing = [float((a != b).float().mean()) for a, b in zip(held_by(matrix), held_by(by_torch), strict=True)]
    assert max(differing) < 0.01


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", PLAIN)
def test_numbers_that_are_not_finite_do_not_become_finite(name: str, bits: Bits, value: float) -> None:
    values, raw = plain(name, 20, 64, value)
    matrix, expected = empty_matrix(name, 20, 64, bits=bits), empty_matrix(name, 20, 64, bits=bits)
    packer().pack(name, raw, matrix, 0, 0)
    expected.store(0, 0, quantize(values, narrow(bits)))
    assert torch.equal(matrix[0].isfinite(), expected[0].isfinite())


@pytest.mark.parametrize("name", ["Q4_1", "Q8_0", "Q6_K", "BF16"])
def test_parts_are_packed_in_any_order_of_rows(name: str) -> None:
    raw = plain(name, 50, 256)[1] if name in PLAIN else any_blocks(name, 50, 256)
    matrix, by_torch = (empty_matrix(name, 50, 256, count=count, bits=4 if name == "Q4_1" else 8) for count in (2, 1))
    generator = torch.Generator().manual_seed(3)
    place, expected = 0, []
    for size in (5, 16, 20, 9):
        part, order = raw[place : place + size], torch.randperm(size, generator=generator)
        packer().pack(name, part, matrix, 1, place, order.tolist())
        expected.append(part[order])
        place += size
    packer().pack(name, torch.cat(expected), by_torch, 0, 0)
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
        packer().pack("Q4_1", any_blocks(**made), matrix, index, first)  # type: ignore[arg-type]
    for order in (range(9), range(1, 11), [0] * 10):
        with pytest.raises(ValueError, match="not a permutation"):
            packer().pack("Q4_1", any_blocks("Q4_1", 10, 64), matrix, 0, 0, order)
    assert (matrix.blocks == 0xA5).all()
