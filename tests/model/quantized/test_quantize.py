"""The error of quantizing weights to 4 and 8 bits."""

from __future__ import annotations

import pytest
import torch

from llmcli.model.quantized.layout import PackedFormat, narrow, wide
from llmcli.model.quantized.quantize import quantize
from tests.support.models.random_models import FORMATS


def relative(values: torch.Tensor, kept: PackedFormat) -> float:
    return float((quantize(values, kept).values() - values).norm() / values.norm())


def plain_four_bits(x: torch.Tensor) -> torch.Tensor:
    groups = x.view(len(x), -1, 32)
    low, scale = groups.amin(-1, keepdim=True), (groups.amax(-1, keepdim=True) - groups.amin(-1, keepdim=True)) / 15
    return (((groups - low) / scale).round() * scale + low).view_as(x)


def test_errors_are_as_small_as_the_bits_and_groups_allow() -> None:
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    assert 0.002 < relative(x, narrow(8)) < 0.006
    plain = float((plain_four_bits(x) - x).norm() / x.norm())
    assert relative(x, narrow(4)) < 0.95 * plain
    # Longer groups have more distant extremes.
    assert relative(x, narrow(4)) < relative(x, wide(4)) < 1.5 * relative(x, narrow(4))
    assert relative(x, narrow(8)) < relative(x, wide(8, 128)) < relative(x, wide(8)) < 1.7 * relative(x, narrow(8))


def test_an_outlier_does_not_spoil_its_row() -> None:
    x = torch.randn(8, 4096, generator=torch.Generator().manual_seed(3))
    x[:, 7] = 6
    plain = x.abs().amax(1, keepdim=True) / 127
    assert relative(x, wide(8)) < 0.99 * float(((x / plain).round() * plain - x).norm() / x.norm())


@pytest.mark.parametrize("kept", FORMATS, ids=str)
def test_the_greatest_error_is_small(kept: PackedFormat) -> None:
    x = torch.randn(20, 90, generator=torch.Generator().manual_seed(1)) * torch.logspace(-4, 2, 20)[:, None]
    error = (quantize(x, kept).values() - x).abs().amax(-1)
    assert bool((error < x.abs().amax(-1) * {4: 0.15 if kept.group == 32 else 0.2, 8: 0.0045}[kept.bits]).all())


@pytest.mark.parametrize("kept", FORMATS, ids=str)
@pytest.mark.parametrize("value", [0.0, 0.5, -3.0])
def test_constant_rows_are_kept(kept: PackedFormat, value: float) -> None:
    x = torch.full((3, 50), value)
    torch.testing.assert_close(quantize(x, kept).values(), x, rtol=1e-3, atol=0)


def test_values_on_a_grid_of_codes_are_kept_exactly() -> None:
    codes = torch.randint(0, 16, (8, 64), generator=torch.Generator().manual_seed(2)).float()
    codes[:, ::32], codes[:, 1::32] = 0, 15
    torch.testing.assert_close(quantize(codes * 0.25 - 2, narrow(4)).values(), codes * 0.25 - 2, rtol=0, atol=1e-6)
