"""Quantize weights to 4 or 8 bits, with the scale (and minimum) of least squared error for each group of columns.

Measured on SmolLM2-135M, published in 4 bits: its weights were first spread evenly within those 4-bit steps, as if they
had never been rounded. Text: 256 tokens of English. All matrices of the layers are in the format of the row, embedding
and head in the 8-bit format that goes with it:

| format | error of a matrix | KL divergence, mean (nats) | same most probable token | mean log loss (3.457 unrounded) |
|---|---|---|---|---|
| 8 bits, groups of 32 | 0.6 % | 0.002 | 96 % | 3.456 |
| 8 bits, by row | 0.9 % | 0.007 | 93 % | 3.461 |
| 4 bits, groups of 32 | 7.4 % | 0.33 | 70 % | 3.674 |
| 4 bits, groups of 128 | 9.8 % | 0.79 | 57 % | 3.946 |

Small models lose most by rounding. Larger ones are reported to lose far less; that was not measured here.

Dimension letters: N rows, C columns, G groups of a row, W columns of a group.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from llmcli.model.quantized.layout import PackedFormat
from llmcli.model.quantized.matrix import Groups

# Iterations of fitting codes to the scale and then the scale to the codes.
_ROUNDS = 3
# Shares of a group's range that are tried: clipping the extremes rounds the other values more finely.
_SHARES = (1.0, 0.9, 0.8)
# The same for a row in 8 bits, which needs less clipping.
_SHARES_OF_ROWS = (1.0, 0.98, 0.96, 0.93, 0.9, 0.8)


def quantize(values: Tensor, packed_format: PackedFormat) -> Groups:
    """Quantize `values` (N, C), of any float type, to the codes and groups of the format `packed_format`.

    For 4 bits, scales and minima are fitted to the codes by least squares and codes to the scales by rounding, in turn;
    the result is never worse than plain rounding between a group's extremes.
    """
    columns = values.shape[1]
    width = packed_format.group or columns
    x = F.pad(values.float(), (0, -columns % width)).view(len(values), -1, width)  # (N, G, W)
    if columns % width > 0:
        # Padding must not widen the range of the last group.
        x[:, -1, columns % width :] = x[:, -1, :1]
    if packed_format.bits == 4:
        codes, scale, minimum = _four_bits(x)
        return Groups(codes.flatten(1)[:, :columns].to(torch.uint8), scale, minimum, packed_format.group)
    codes, scale = _eight_bits(x) if packed_format.group else _eight_bits_by_row(x)
    return Groups(codes.flatten(1)[:, :columns].to(torch.uint8), scale, None, packed_format.group)


def _eight_bits_by_row(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize whole rows `x` (N, 1, C): codes (N, 1, C) and scales (N, 1) in float32."""
    greatest = x.abs().amax(-1)
    best = greatest / 127
    least = torch.full_like(greatest, torch.inf)
    for share in _SHARES_OF_ROWS:
        tried = greatest * (share / 127)
        error = (_divided(x, tried).round_().clamp_(-128, 127) * tried[..., None] - x).square_().sum(-1)
        best = torch.where(error < least, tried, best)
        least = torch.minimum(error, least)
    return _divided(x, best).round_().clamp_(-128, 127) + 128, best


def _eight_bits(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize groups `x` (N, G, W) to 8 bits: codes (N, G, W) and scales (N, G)."""
    scale = _half(x.abs().amax(-1) / 127)
    codes = _divided(x, scale).round_().clamp_(-128, 127)
    return codes + 128, scale


def _four_bits(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize groups `x` (N, G, W) to 4 bits: codes (N, G, W), scales and minima (N, G)."""
    low, high = x.amin(-1), x.amax(-1)
    best: tuple[Tensor, Tensor, Tensor] | None = None
    least = torch.empty(0)
    for share in _SHARES:
        cut = (high - low) * (1 - share) / 2
        minimum, scale = _half(low + cut), _half((high - low - 2 * cut) / 15)
        for step in range(_ROUNDS):
            codes = _divided(x - minimum.float()[..., None], scale).round_().clamp_(0, 15)
            error = (codes * scale.float()[..., None] + minimum.float()[..., None] - x).square_().sum(-1)
            if best is None:
                best, least = (codes, scale, minimum), error
            else:
                better = error < least
                least = torch.where(better, error, least)
                best = (
                    torch.where(better[..., None], codes, best[0]),
                    torch.where(better, scale, best[1]),
                    torch.where(better, minimum, best[2]),
                )
            if step + 1 < _ROUNDS:
                scale, minimum = _line(codes, x)
    assert best is not None
    return best


def _line(codes: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The scale and minimum (N, G) of the least squared error for given codes (N, G, W)."""
    mean_code, mean_x = codes.mean(-1, keepdim=True), x.mean(-1, keepdim=True)
    centered = codes - mean_code
    scale = (centered * (x - mean_x)).sum(-1) / centered.square().sum(-1).clamp_(min=1e-6)
    scale = _half(scale)
    return scale, _half(mean_x[..., 0] - scale.float() * mean_code[..., 0])


def _divided(x: Tensor, scale: Tensor) -> Tensor:
    """`x` (N, G, W) divided by `scale` (N, G); zero where the scale is zero."""
    inverse = torch.where(scale == 0, 0.0, 1.0 / scale.float())
    return x * inverse[..., None]


def _half(values: Tensor) -> Tensor:
    """Convert to half precision, clamped to its greatest number, 65504."""
    return values.clamp(-65504, 65504).half()
