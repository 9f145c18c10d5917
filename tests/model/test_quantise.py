"""Rounding weights to few bits: how far from what they were."""

from __future__ import annotations

import pytest
import torch

from llmcli.model.packed import Bits
from llmcli.model.quantise import quantise


def relative(values: torch.Tensor, bits: Bits) -> float:
    return float((quantise(values, bits).values() - values).norm() / values.norm())


def plain_four_bits(x: torch.Tensor) -> torch.Tensor:
    groups = x.view(len(x), -1, 32)
    low, scale = groups.amin(-1, keepdim=True), (groups.amax(-1, keepdim=True) - groups.amin(-1, keepdim=True)) / 15
    return (((groups - low) / scale).round() * scale + low).view_as(x)


def test_errors_are_those_of_the_bits() -> None:
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    assert 0.002 < relative(x, 8) < 0.006
    plain = float((plain_four_bits(x) - x).norm() / x.norm())
    assert relative(x, 4) < 0.95 * plain


@pytest.mark.parametrize("bits", [4, 8])
def test_every_value_is_near(bits: Bits) -> None:
    x = torch.randn(20, 90, generator=torch.Generator().manual_seed(1)) * torch.logspace(-4, 2, 20)[:, None]
    error = (quantise(x, bits).values() - x).abs().amax(-1)
    assert bool((error < x.abs().amax(-1) * (0.15 if bits == 4 else 0.0045)).all())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("value", [0.0, 0.5, -3.0])
def test_constant_rows_are_kept(bits: Bits, value: float) -> None:
    x = torch.full((3, 50), value)
    torch.testing.assert_close(quantise(x, bits).values(), x, rtol=1e-3, atol=0)


def test_what_is_on_a_grid_stays_there() -> None:
    codes = torch.randint(0, 16, (8, 64), generator=torch.Generator().manual_seed(2)).float()
    codes[:, ::32], codes[:, 1::32] = 0, 15
    torch.testing.assert_close(quantise(codes * 0.25 - 2, 4).values(), codes * 0.25 - 2, rtol=0, atol=1e-6)
