"""The causal convolution gives what torch's own gives on padded inputs, in pieces of any size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llmcli.model.recurrent.causal_conv import causal_conv

BATCH, TOKENS, CHANNELS = 2, 11, 6


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("width", [1, 3, 7])
@pytest.mark.parametrize("bias", [None, random(CHANNELS, seed=3)])
def test_pieces_of_any_size_give_the_padded_convolution(width: int, bias: torch.Tensor | None) -> None:
    x, weight = random(BATCH, TOKENS, CHANNELS, seed=1), random(CHANNELS, width, seed=2)
    padded = F.pad(x.transpose(1, 2), (width - 1, 0))
    expected = F.silu(F.conv1d(padded, weight[:, None], bias, groups=CHANNELS)).transpose(1, 2)
    for size in (1, 2, 5, TOKENS):
        outputs, tail = [], None
        for piece in torch.split(x, size, dim=1):
            y, tail = causal_conv(piece, weight, bias, tail, F.silu)
            outputs.append(y)
        assert torch.allclose(torch.cat(outputs, dim=1), expected, atol=1e-12)
        assert tail is not None and torch.equal(tail, x[:, TOKENS - width + 1 :])


def test_a_dilation_skips_inputs_in_pieces_of_any_size() -> None:
    x, weight = random(BATCH, TOKENS, CHANNELS, seed=1), random(CHANNELS, 4, seed=2)
    padded = F.pad(x.transpose(1, 2), (9, 0))
    expected = F.conv1d(padded, weight[:, None], groups=CHANNELS, dilation=3).transpose(1, 2)
    for size in (1, 2, 5, TOKENS):
        outputs, tail = [], None
        for piece in torch.split(x, size, dim=1):
            y, tail = causal_conv(piece, weight, None, tail, None, dilation=3)
            outputs.append(y)
        assert torch.allclose(torch.cat(outputs, dim=1), expected, atol=1e-12)
        assert tail is not None and torch.equal(tail, x[:, TOKENS - 9 :])


def test_sums_of_half_precision_are_rounded_once() -> None:
    x, weight = random(1, 8, CHANNELS, seed=1).bfloat16(), random(CHANNELS, 4, seed=2).bfloat16()
    y, tail = causal_conv(x, weight, None, None, None)
    exact, _ = causal_conv(x.double(), weight.double(), None, None, None)
    assert y.dtype == tail.dtype == torch.bfloat16
    assert torch.equal(y, exact.bfloat16())
