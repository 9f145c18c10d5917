"""Packed weights: what goes in comes out, whatever the size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llmcli.model.packed import Bits, Groups, PackedMatrix, QuantisedEmbedding, QuantisedLinear
from tests.kernels.making import packed, random_groups

SIZES = [(16, 32), (1, 1), (17, 33), (48, 576), (50, 40), (300, 95)]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("size", SIZES)
def test_what_is_packed_is_what_was_quantised(bits: Bits, size: tuple[int, int]) -> None:
    groups = random_groups(bits, *size)
    assert torch.equal(packed(groups)[0], groups.values())


def test_values_are_scale_times_code_and_minimum() -> None:
    codes = torch.arange(16, dtype=torch.uint8).repeat(2)[None]
    half = torch.tensor([[0.5]], dtype=torch.float16)
    assert Groups(codes, half, half * 3).values()[0, :3].tolist() == [1.5, 2.0, 2.5]
    assert Groups(codes + 126, half, None).values()[0, :3].tolist() == [-1.0, -0.5, 0.0]


@pytest.mark.parametrize("bits", [4, 8])
def test_modules_compute_what_their_weight_says(bits: Bits, monkeypatch: pytest.MonkeyPatch) -> None:
    # Several chunks of rows, the last not full.
    monkeypatch.setattr("llmcli.model.packed._VALUES_AT_ONCE", 4000)
    matrix = packed(random_groups(bits, 75, 45))
    linear = QuantisedLinear(matrix, bias=True)
    assert linear.bias is not None
    linear.bias.data.normal_()
    x = torch.randn(2, 3, 45)
    torch.testing.assert_close(linear(x), F.linear(x, linear.weight, linear.bias))
    ids = torch.tensor([[74, 0, 16], [15, 31, 0]])
    assert torch.equal(QuantisedEmbedding(matrix)(ids), linear.weight[ids])


def test_matrices_of_a_stack_keep_apart() -> None:
    parts = [random_groups(4, 20, 40, seed=seed) for seed in range(3)]
    stack = PackedMatrix(4, 20, 40, dtype=torch.float32, count=3)
    for index in (2, 0, 1):
        stack.store(index, 0, parts[index])
    for index in range(3):
        assert torch.equal(stack[index], parts[index].values())


def test_rows_are_stored_in_whole_blocks() -> None:
    matrix = PackedMatrix(8, 40, 32, dtype=torch.float32)
    groups = random_groups(8, 40, 32)
    for first, stop in ((32, 40), (0, 32)):
        matrix.store(0, first, Groups(groups.codes[first:stop], groups.scale[first:stop], None))
    assert torch.equal(matrix[0], groups.values())
    with pytest.raises(ValueError, match="whole blocks"):
        matrix.store(0, 8, groups)
    with pytest.raises(ValueError, match="whole blocks"):
        matrix.store(0, 0, random_groups(8, 8, 32))
