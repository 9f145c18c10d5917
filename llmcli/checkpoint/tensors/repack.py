"""Convert GGUF block formats to packed codes with one scale for every 32 columns.

| format | becomes | error |
|---|---|---|
| Q4_0, Q4_1 | 4 bits | none |
| Q4_K | 4 bits | scales and minima, products of 6 bits and half precision, are rounded to half: 2^-11 of each at most |
| Q8_0, Q5_0, IQ4_NL | 8 bits | none |
| all others | 8 bits | values are rounded to 1/127 of the largest in their group: 0.5 % by r.m.s. |
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from llmcli.checkpoint.tensors import ggml_blocks
from llmcli.checkpoint.tensors.encodings import ENCODINGS
from llmcli.model.quantized.layout import Bits, narrow
from llmcli.model.quantized.matrix import Groups
from llmcli.model.quantized.quantize import quantize


def bits_of(encoding: str) -> Bits | None:
    """Bits per code when a block format is packed; None for plain numbers."""
    if encoding in ("Q4_0", "Q4_1", "Q4_K"):
        return 4
    return 8 if encoding in ENCODINGS and ENCODINGS[encoding].dtype is None else None


def groups_of(encoding: str, raw: Tensor) -> Groups:
    """Convert rows of blocks, uint8 (N, blocks of a row, block bytes), to codes and scales."""
    rows, stored = len(raw), raw.flatten(0, 1)
    if encoding not in _EXACT:
        return quantize(ENCODINGS[encoding].decode(stored).view(rows, -1), narrow(8))
    codes, scale, minimum = _EXACT[encoding](stored)
    return Groups(
        codes.reshape(rows, -1), scale.half().view(rows, -1), None if minimum is None else minimum.half().view(rows, -1)
    )


def _q4_0(stored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    scale = ggml_blocks.half(stored, 0)
    return ggml_blocks.fields(stored[:, 2:18], 1, 4), scale, scale * -8


def _q4_1(stored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return ggml_blocks.fields(stored[:, 4:20], 1, 4), ggml_blocks.half(stored, 0), ggml_blocks.half(stored, 2)


def _q4_k(stored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    scales, minima = ggml_blocks.scales_and_minima(stored[:, 4:16])
    codes = ggml_blocks.fields(stored[:, 16:144], 4, 4)
    return codes, ggml_blocks.half(stored, 0) * scales, ggml_blocks.half(stored, 2) * minima * -1


def _q5_0(stored: Tensor) -> tuple[Tensor, Tensor, None]:
    codes = ggml_blocks.fields(stored[:, 6:22], 1, 4) | ggml_blocks.fields(stored[:, 2:6], 4, 1) << 4
    return codes + (128 - 16), ggml_blocks.half(stored, 0), None


def _q8_0(stored: Tensor) -> tuple[Tensor, Tensor, None]:
    return stored[:, 2:34] ^ 128, ggml_blocks.half(stored, 0), None


def _iq4_nl(stored: Tensor) -> tuple[Tensor, Tensor, None]:
    table = torch.tensor([level + 128 for level in ggml_blocks.IQ4_LEVELS], dtype=torch.uint8, device=stored.device)
    codes = ggml_blocks.fields(stored[:, 2:18], 1, 4)
    return table[codes.int()], ggml_blocks.half(stored, 0), None


_EXACT: dict[str, Callable[[Tensor], tuple[Tensor, Tensor, Tensor | None]]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q4_K": _q4_k,
    "Q5_0": _q5_0,
    "Q8_0": _q8_0,
    "IQ4_NL": _iq4_nl,
}
