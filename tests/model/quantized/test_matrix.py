"""Packing and unpacking gives the same weights, for every format and size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llmcli.model.quantized.layout import COLUMNS, PackedFormat, narrow, wide
from llmcli.model.quantized.matrix import Groups, PackedMatrix, QuantizedEmbedding, QuantizedLinear
from tests.support.models.random_models import FORMATS, WIDE, packed, random_groups

SIZES = [(16, 32), (1, 1), (17, 33), (48, 576), (50, 40), (300, 95), (10, 257)]


@pytest.mark.parametrize("kept", FORMATS, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_unpacked_values_are_those_that_were_packed(kept: PackedFormat, size: tuple[int, int]) -> None:
    groups = random_groups(kept, *size)
    assert torch.equal(packed(groups, kept)[0], groups.values())


@pytest.mark.parametrize(
    ("kept", "nbytes"),
    [
        (narrow(4), 5 / 8),
        (narrow(8), 8.5 / 8),
        (wide(4), 4.25 / 8),
        (wide(8), 1 + 4 / 4096),
        (wide(4, 32), 5 / 8),
        (wide(8, 32), 8.5 / 8),
        (wide(8, 128), 8.125 / 8),
    ],
)
def test_bits_of_a_weight(kept: PackedFormat, nbytes: float) -> None:
    assert PackedMatrix(kept, 64, 4096, dtype=torch.float32, count=2).nbytes == 2 * 64 * 4096 * nbytes


@pytest.mark.parametrize("kept", WIDE, ids=str)
def test_wide_blocks_have_the_layout_that_kernels_expect(kept: PackedFormat) -> None:
    bits, columns = kept.bits, 200
    codes = torch.zeros(6, columns, dtype=torch.uint8)
    codes[5, 128 + 37] = 9
    groups = random_groups(kept, 6, columns)
    matrix = packed(Groups(codes, groups.scale, groups.minimum, kept.group), kept)
    assert matrix.nbytes % 16 == 0
    end = kept.padded(columns) * bits // 2
    words = matrix.blocks[1, :end].view(torch.int32)
    word, place = divmod((128 + 37) * bits, 32)
    expected = torch.zeros_like(words)
    expected[word * 4 + 1] = 9 << place
    assert torch.equal(words, expected)
    numbers = matrix.blocks[1, end:].view(groups.scale.dtype)
    last = kept.groups(columns) - 1
    if groups.minimum is None:
        assert numbers[last * 4 + 1] == groups.scale[5, last]
    else:
        assert numbers[last * 8 + 2 : last * 8 + 4].tolist() == [groups.scale[5, last], groups.minimum[5, last]]


def test_values_are_scale_times_code_and_minimum() -> None:
    codes = torch.arange(16, dtype=torch.uint8).repeat(2)[None]
    half = torch.tensor([[0.5]], dtype=torch.float16)
    assert Groups(codes, half, half * 3).values()[0, :3].tolist() == [1.5, 2.0, 2.5]
    for group in (COLUMNS, None):
        assert Groups(codes + 126, half, None, group).values()[0, :3].tolist() == [-1.0, -0.5, 0.0]


def test_groups_with_equal_scales_can_be_merged() -> None:
    groups = random_groups(wide(4), 5, 300)
    scale, minimum = (numbers.repeat_interleave(4, 1)[:, :10] for numbers in groups.scales_and_minima)
    short = Groups(groups.codes, scale, minimum)
    longer = short.in_groups_of(128)
    assert longer.kind == (4, 128) and torch.equal(longer.values(), groups.values())
    assert torch.equal(short.values(), groups.values())


def test_a_matrix_refuses_groups_of_another_format() -> None:
    with pytest.raises(ValueError, match=r"int4 g128 cannot hold groups of \(4, 32\)"):
        PackedMatrix(wide(4), 16, 32, dtype=torch.float32).store(0, 0, random_groups(4, 16, 32))


@pytest.mark.parametrize("kept", FORMATS, ids=str)
def test_modules_compute_with_their_dequantized_weight(kept: PackedFormat) -> None:
    # Several chunks of rows, the last not full.
    matrix = packed(random_groups(kept, 75, 45), kept, values_at_once=4000)
    linear = QuantizedLinear(matrix, bias=True)
    assert linear.bias is not None
    linear.bias.data.normal_()
    x = torch.randn(2, 3, 45)
    torch.testing.assert_close(linear(x), F.linear(x, linear.weight, linear.bias))
    ids = torch.tensor([[74, 0, 16], [15, 31, 0]])
    assert torch.equal(QuantizedEmbedding(matrix)(ids), linear.weight[ids])


@pytest.mark.parametrize("kept", [narrow(4), wide(4)], ids=str)
def test_matrices_of_a_stack_do_not_overlap(kept: PackedFormat) -> None:
    parts = [random_groups(kept, 20, 40, seed=seed) for seed in range(3)]
    stack = PackedMatrix(kept, 20, 40, dtype=torch.float32, count=3)
    for index in (2, 0, 1):
        stack.store(index, 0, parts[index])
    for index in range(3):
        assert torch.equal(stack[index], parts[index].values())


@pytest.mark.parametrize("kept", [narrow(8), wide(8)], ids=str)
def test_rows_are_stored_in_whole_blocks(kept: PackedFormat) -> None:
    matrix = PackedMatrix(kept, 40, 32, dtype=torch.float32)
    groups = random_groups(kept, 40, 32)
    for first, stop in ((32, 40), (0, 32)):
        matrix.store(0, first, groups[first:stop])
    assert torch.equal(matrix[0], groups.values())
    with pytest.raises(ValueError, match="whole blocks"):
        matrix.store(0, 8, groups)
    with pytest.raises(ValueError, match="whole blocks"):
        matrix.store(0, 0, random_groups(kept, 8, 32))
