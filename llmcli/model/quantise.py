"""Rounding weights to 4 or 8 bits, with the scale (and minimum) of each 32 columns that errs least.

Dimension letters: N rows, C columns, G groups of a row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from llmcli.model.packed import COLUMNS, Bits, Groups

# How often codes are chosen for a scale, and then the scale for the codes.
_ROUNDS = 3
# Shares of a group's range to begin from: without its extremes the other values are rounded more finely.
_SHARES = (1.0, 0.9, 0.8)


def quantise(values: Tensor, bits: Bits) -> Groups:
    """`values` (N, C), of any float type, as codes in groups of 32 columns.

    Scales are fitted to the codes by least squares, and codes to the scales by rounding, in turn; nothing is worse
    than by plain rounding between a group's extremes.
    """
    columns = values.shape[1]
    x = F.pad(values.float(), (0, -columns % COLUMNS)).view(len(values), -1, COLUMNS)  # (N, G, 32)
    if columns % COLUMNS > 0:
        # Padding must not widen the range of the last group.
        x[:, -1, columns % COLUMNS :] = x[:, -1, :1]
    codes, scale, minimum = _four_bits(x) if bits == 4 else (*_eight_bits(x), None)
    return Groups(codes.flatten(1)[:, :columns].to(torch.uint8), scale, minimum)


def _eight_bits(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (N, G, 32) and scales (N, G)."""
    scale = _half(x.abs().amax(-1) / 127)
    codes = _divided(x, scale).round_().clamp_(-128, 127)
    return codes + 128, scale


def _four_bits(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (N, G, 32), scales and minima (N, G)."""
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
    """The scale and minimum (N, G) of the least squared error for given codes (N, G, 32)."""
    mean_code, mean_x = codes.mean(-1, keepdim=True), x.mean(-1, keepdim=True)
    centred = codes - mean_code
    scale = (centred * (x - mean_x)).sum(-1) / centred.square().sum(-1).clamp_(min=1e-6)
    scale = _half(scale)
    return scale, _half(mean_x[..., 0] - scale.float() * mean_code[..., 0])


def _divided(x: Tensor, scale: Tensor) -> Tensor:
    """`x` (N, G, 32) over `scale` (N, G); zero where the scale is."""
    inverse = torch.where(scale == 0, 0.0, 1.0 / scale.float())
    return x * inverse[..., None]


def _half(values: Tensor) -> Tensor:
    """In half precision, whose greatest number is 65504."""
    return values.clamp(-65504, 65504).half()
