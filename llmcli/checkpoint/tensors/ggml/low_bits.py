"""Decode ggml's formats of 1 to 3 bits: ternary values (TQ), and vectors of a grid with scales and signs (IQ).

Every function takes N blocks as uint8 (N, block bytes) and returns whole numbers int8 (N, 256), and float32 scales
(N, S), each for 256 / S of them. Both are exact, and so are their products, which therefore equal those of
`dequantize_row_*` bit for bit. Layouts are those of `ggml-common.h`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from struct import pack, unpack

import torch
from torch import Tensor

from llmcli.checkpoint.tensors.ggml.blocks import fields, half
from llmcli.checkpoint.tensors.ggml.grids import grid

Scaled = tuple[Tensor, Tensor]
"""Whole numbers int8 (N, 256) and scales float32 (N, S)."""

# A byte's bits as signs: -1 for a set bit, lowest first.
_SIGNS = tuple(tuple(-1 if byte >> bit & 1 else 1 for bit in range(8)) for byte in range(256))
_SEVEN_BITS = (0, 7, 14, 21)


def tq1_0(blocks: Tensor) -> Scaled:
    """48 bytes of 5 and 4 bytes of 4 ternary digits, d: d * (q - 1).

    A byte is a fraction of 256: multiplied by 3, what passes 256 is its first digit.
    """
    parts = []
    for start, stop, count in ((0, 32, 5), (32, 48, 5), (48, 52, 4)):
        powers = torch.tensor([3**place for place in range(count)], dtype=torch.uint8, device=blocks.device)
        parts.append((blocks[:, None, start:stop] * powers[:, None]).flatten(1))
    digits = torch.cat(parts, dim=1).short().mul_(3) >> 8
    return digits.sub_(1).to(torch.int8), half(blocks, 52)


def tq2_0(blocks: Tensor) -> Scaled:
    """64 bytes of 2-bit q, d: d * (q - 1)."""
    return fields(blocks[:, :64], 2, 2).view(torch.int8).sub_(1), half(blocks, 64)


def iq1_s(blocks: Tensor) -> Scaled:
    """d, 32 low bytes of codes, for each 32 values 3 upper bits of 4 codes, a scale and the sign of a shift by 1/8."""
    upper = _words(blocks[:, 34:], torch.int16).int()  # (N, 8)
    codes = blocks[:, 2:34].view(-1, 8, 4).int() | _shifted(upper, (0, 3, 6, 9), 7) << 8  # (N, 8, 4)
    shifts = _spread(1 - (upper >> 15 & 1) * 2, 4)
    return _eighths(codes, shifts), half(blocks, 0) * ((upper >> 12 & 7) * 2 + 1) * 0.125


def iq1_m(blocks: Tensor) -> Scaled:
    """32 low bytes of codes, 3 upper bits and the sign of a shift for each, 16 3-bit scales in words of 16 bits.

    The upper 4 bits of the four words are those of d.
    """
    upper = _shifted(blocks[:, 32:48].int(), (0, 4), 15).flatten(1)  # (N, 32)
    words = _words(blocks[:, 48:], torch.int16).int()  # (N, 4)
    parts = (words >> 12 & 15) << torch.arange(0, 16, 4, dtype=torch.int32, device=blocks.device)
    d = parts.sum(1, keepdim=True).short().view(torch.float16).float()
    scales = _shifted(words, (0, 3, 6, 9), 7).flatten(1)  # (N, 16)
    codes = blocks[:, :32].int() | (upper & 7) << 8
    return _eighths(codes, 1 - (upper >> 3) * 2), d * (scales * 2 + 1) * 0.125


def iq2_xxs(blocks: Tensor) -> Scaled:
    """d, for each 32 values: 4 codes, 4 times 7 bits of signs, 4 bits of scale."""
    words = _words(blocks[:, 2:], torch.int32)[:, 1::2]  # (N, 8)
    codes = blocks[:, 2:].view(-1, 8, 8)[:, :, :4].int()
    values = _vectors("IQ2_XXS", codes) * _signs(_with_parity(_shifted(words, _SEVEN_BITS, 127)))
    return values, half(blocks, 0) * ((words >> 28 & 15) + 0.5) * 0.25


def iq2_xs(blocks: Tensor) -> Scaled:
    """d, 32 words of a 9-bit code and 7 bits of signs, 16 4-bit scales."""
    words = _words(blocks[:, 2:66], torch.int16).int() & 0xFFFF  # (N, 32)
    values = _vectors("IQ2_XS", words & 511) * _signs(_with_parity(words >> 9))
    return values, half(blocks, 0) * (_nibbles(blocks[:, 66:]) + 0.5) * 0.25


def iq2_s(blocks: Tensor) -> Scaled:
    """d, 32 low bytes of codes, 32 bytes of signs, 2 upper bits of each code, 16 4-bit scales."""
    upper = _shifted(blocks[:, 66:74].int(), (0, 2, 4, 6), 3).flatten(1)  # (N, 32)
    values = _vectors("IQ2_S", blocks[:, 2:34].int() | upper << 8) * _signs(blocks[:, 34:66].int())
    return values, half(blocks, 0) * (_nibbles(blocks[:, 74:]) + 0.5) * 0.25


def iq3_xxs(blocks: Tensor) -> Scaled:
    """d, 64 codes, for each 32 values 4 times 7 bits of signs and 4 bits of scale."""
    words = _words(blocks[:, 66:], torch.int32)  # (N, 8)
    signs = _signs(_with_parity(_shifted(words, _SEVEN_BITS, 127)))
    return _vectors("IQ3_XXS", blocks[:, 2:66].int()) * signs, half(blocks, 0) * ((words >> 28 & 15) + 0.5) * 0.5


def iq3_s(blocks: Tensor) -> Scaled:
    """d, 64 low bytes of codes, a ninth bit of each, 32 bytes of signs, 8 4-bit scales."""
    upper = _shifted(blocks[:, 66:74].int(), range(8), 1).flatten(1)  # (N, 64)
    values = _vectors("IQ3_S", blocks[:, 2:66].int() | upper << 8) * _signs(blocks[:, 74:106].int())
    return values, half(blocks, 0) * (_nibbles(blocks[:, 106:]) * 2 + 1)


def _words(stored: Tensor, dtype: torch.dtype) -> Tensor:
    # A copy even of a single block, which is contiguous but may not be aligned.
    return stored.clone(memory_format=torch.contiguous_format).view(dtype)


def _shifted(numbers: Tensor, shifts: Sequence[int], mask: int) -> Tensor:
    """Bit fields of `numbers` int32 (N, W): (N, W, number of shifts)."""
    return numbers[..., None] >> torch.tensor(shifts, dtype=torch.int32, device=numbers.device) & mask


def _nibbles(stored: Tensor) -> Tensor:
    """The lower and the upper nibble of each byte (N, B): (N, 2 B)."""
    return _shifted(stored.int(), (0, 4), 15).flatten(1)


def _spread(numbers: Tensor, times: int) -> Tensor:
    """Repeat each of the last dimension in a new one."""
    return numbers[..., None].expand(*numbers.shape, times)


def _with_parity(seven: Tensor) -> Tensor:
    """Seven bits of signs, with the eighth that makes the number of set bits even (`ksigns_iq2xs`)."""
    parity = seven ^ seven >> 4
    parity = parity ^ parity >> 2
    return seven | ((parity ^ parity >> 1) & 1) << 7


def _vectors(name: str, codes: Tensor) -> Tensor:
    """The values of a grid's vectors, int8 (N, 256)."""
    return _looked_up(grid(name), codes)


def _signs(bits: Tensor) -> Tensor:
    """Bytes of signs as factors, int8 (N, 256)."""
    return _looked_up(_SIGNS, bits)


def _eighths(codes: Tensor, shifts: Tensor) -> Tensor:
    """Eight times the values of IQ1's vectors plus the shifts of 1/8, +1 or -1 for each vector: int8 (N, 256)."""
    values = _looked_up(grid("IQ1_S"), codes).mul_(8).view(len(codes), 32, 8)
    return values.add_(shifts.to(torch.int8).reshape(len(codes), 32, 1)).flatten(1)


def _looked_up(table: tuple[tuple[int, ...], ...], codes: Tensor) -> Tensor:
    """The vectors with the numbers `codes` (N, ...), one after another: int8 (N, 256)."""
    # One lookup of a 32-bit or 64-bit number for each vector.
    dtype = torch.int64 if len(table[0]) == 8 else torch.int32
    numbers = torch.tensor(_as_numbers(table), dtype=dtype, device=codes.device)
    return numbers.index_select(0, codes.flatten()).view(torch.int8).view(len(codes), 256)


@cache
def _as_numbers(table: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """Vectors of 4 or 8 bytes as numbers with these bytes in memory."""
    size = len(table[0])
    raw = b"".join(pack(f"{size}b", *vector) for vector in table)
    return unpack(f"{len(table)}{'q' if size == 8 else 'i'}", raw)


SCALED: dict[str, Callable[[Tensor], Scaled]] = {
    "TQ1_0": tq1_0,
    "TQ2_0": tq2_0,
    "IQ1_S": iq1_s,
    "IQ1_M": iq1_m,
    "IQ2_XXS": iq2_xxs,
    "IQ2_XS": iq2_xs,
    "IQ2_S": iq2_s,
    "IQ3_XXS": iq3_xxs,
    "IQ3_S": iq3_s,
}
"""Functions of this module by format."""


def decoder(name: str) -> Callable[[Tensor], Tensor]:
    """A function that decodes blocks of a format, uint8 (N, block bytes), to float32 (N, 256)."""

    def decode(blocks: Tensor) -> Tensor:
        numbers, scales = SCALED[name](blocks)
        values = numbers.float()
        values.view(*scales.shape, values.shape[1] // scales.shape[1]).mul_(scales.unsqueeze(-1))
        return values

    return decode
