"""Convert GGUF block formats to packed codes with one scale for every 32 columns.

| format | becomes | error |
|---|---|---|
| Q4_0, Q4_1, TQ1_0, TQ2_0 | 4 bits | none |
| Q4_K, IQ1_S | 4 bits | scales and minima, a few bits times half precision, are rounded to half: 2^-11 at most |
| Q8_0, Q5_0, IQ4_NL | 8 bits | none |
| MXFP4 | 8 bits | none, if scales are powers of two from 2^-23 to 2^16 |
| IQ2_XXS, IQ3_XXS, IQ3_S, IQ4_XS | 8 bits | scales are rounded to half: 2^-11 at most |
| all others | 8 bits | values are rounded to 1/127 of the largest in their group: 0.5 % by r.m.s. |
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from llmcli.checkpoint.tensors.dtypes import CODES_KEPT
from llmcli.checkpoint.tensors.encodings import ENCODINGS
from llmcli.checkpoint.tensors.ggml import blocks, low_bits
from llmcli.model.quantized.layout import COLUMNS, Bits, narrow
from llmcli.model.quantized.matrix import Groups
from llmcli.model.quantized.quantize import quantize


def bits_of(encoding: str) -> Bits | None:
    """Bits per code when a block format is packed; None for plain numbers."""
    if encoding in CODES_KEPT:
        return CODES_KEPT[encoding]
    return 8 if encoding in ENCODINGS and ENCODINGS[encoding].dtype is None else None


def groups_of(encoding: str, raw: Tensor) -> Groups:
    """Convert rows of blocks, uint8 (N, blocks of a row, block bytes), to codes and scales."""
    rows, stored = len(raw), raw.flatten(0, 1)
    if encoding not in CODES_KEPT:
        return quantize(ENCODINGS[encoding].decode(stored).view(rows, -1), narrow(8))
    codes, scale, minimum = _CONVERTERS[encoding](stored)
    return Groups(
        codes.reshape(rows, -1), scale.half().view(rows, -1), None if minimum is None else minimum.half().view(rows, -1)
    )


def _q4_0(stored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    scale = blocks.half(stored, 0)
    return blocks.fields(stored[:, 2:18], 1, 4), scale, scale * -8


def _q4_1(stored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return blocks.fields(stored[:, 4:20], 1, 4), blocks.half(stored, 0), blocks.half(stored, 2)


def _q4_k(stored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    scales, minima = blocks.scales_and_minima(stored[:, 4:16])
    codes = blocks.fields(stored[:, 16:144], 4, 4)
    return codes, blocks.half(stored, 0) * scales, blocks.half(stored, 2) * minima * -1


def _q5_0(stored: Tensor) -> tuple[Tensor, Tensor, None]:
    codes = blocks.fields(stored[:, 6:22], 1, 4) | blocks.fields(stored[:, 2:6], 4, 1) << 4
    return codes + (128 - 16), blocks.half(stored, 0), None


def _q8_0(stored: Tensor) -> tuple[Tensor, Tensor, None]:
    return stored[:, 2:34] ^ 128, blocks.half(stored, 0), None


def _iq4_nl(stored: Tensor) -> tuple[Tensor, Tensor, None]:
    codes = _levels(blocks.fields(stored[:, 2:18], 1, 4), blocks.IQ4_LEVELS)
    return codes, blocks.half(stored, 0), None


def _iq4_xs(stored: Tensor) -> tuple[Tensor, Tensor, None]:
    codes = _levels(blocks.fields(stored[:, 8:136], 8, 4), blocks.IQ4_LEVELS)
    return codes, blocks.iq4_xs_scales(stored), None


def _mxfp4(stored: Tensor) -> tuple[Tensor, Tensor, None]:
    codes = _levels(blocks.fields(stored[:, 1:17], 1, 4), blocks.FP4_LEVELS)
    # Larger scales than half precision has, which no weights need, become its largest number.
    return codes, blocks.mxfp4_scales(stored).clamp(max=65504), None


def _levels(codes: Tensor, levels: tuple[int, ...]) -> Tensor:
    table = torch.tensor([level + 128 for level in levels], dtype=torch.uint8, device=codes.device)
    return table.index_select(0, codes.flatten().int()).view(codes.shape)


def _ternary(name: str) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
    def convert(stored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        numbers, scale = low_bits.SCALED[name](stored)
        scales = scale.expand(-1, numbers.shape[1] // COLUMNS)
        return (numbers + 1).view(torch.uint8), scales, -scales

    return convert


def _iq1_s(stored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # Numbers are 8 * (code - 1) + shift, and all 32 of a group have the same shift, 1 or -1.
    numbers, scale = low_bits.iq1_s(stored)
    codes = (numbers + 9) >> 3
    first = numbers[:, ::COLUMNS] - 8 * codes[:, ::COLUMNS]
    return codes.view(torch.uint8), scale * 8, scale * first


def _grid(name: str) -> Callable[[Tensor], tuple[Tensor, Tensor, None]]:
    def convert(stored: Tensor) -> tuple[Tensor, Tensor, None]:
        numbers, scales = low_bits.SCALED[name](stored)
        return numbers.view(torch.uint8) ^ 128, scales, None

    return convert


_CONVERTERS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor, Tensor | None]]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q4_K": _q4_k,
    "Q5_0": _q5_0,
    "Q8_0": _q8_0,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
    "MXFP4": _mxfp4,
    "IQ1_S": _iq1_s,
    **{name: _ternary(name) for name in ("TQ1_0", "TQ2_0")},
    **{name: _grid(name) for name in ("IQ2_XXS", "IQ3_XXS", "IQ3_S")},
}
