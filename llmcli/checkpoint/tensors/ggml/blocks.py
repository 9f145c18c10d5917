"""Decode ggml's block formats: a few bits per value, with scales shared by a block of values.

Every decoder takes N blocks as uint8 (N, block bytes) and returns float32 (N, block size). Layouts are those of
`ggml-common.h`, and the order of operations is that of `dequantize_row_*`, so that results are equal bit for bit.
Half-precision scales are written d (scale) and m (minimum).
"""

from __future__ import annotations

import torch
from torch import Tensor

# The non-linear 4-bit levels of IQ4_NL and IQ4_XS (`kvalues_iq4nl`).
IQ4_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
# FP4 (E2M1) of the OCP Microscaling specification, doubled as in ggml to make all values whole.
FP4_LEVELS = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def decode_q4_0(blocks: Tensor) -> Tensor:
    """d, 16 bytes of nibbles: d * (q - 8)."""
    q = fields(blocks[:, 2:18], 1, 4)  # (N, 32)
    return _values(q, offset=8).mul_(half(blocks, 0))


def decode_q4_1(blocks: Tensor) -> Tensor:
    """d, m, 16 bytes of nibbles: d * q + m."""
    q = fields(blocks[:, 4:20], 1, 4)  # (N, 32)
    return _values(q).mul_(half(blocks, 0)).add_(half(blocks, 2))


def decode_q5_0(blocks: Tensor) -> Tensor:
    """d, 32 fifth bits, 16 bytes of nibbles: d * (q - 16)."""
    q = fields(blocks[:, 6:22], 1, 4) | fields(blocks[:, 2:6], 4, 1) << 4  # (N, 32)
    return _values(q, offset=16).mul_(half(blocks, 0))


def decode_q5_1(blocks: Tensor) -> Tensor:
    """d, m, 32 fifth bits, 16 bytes of nibbles: d * q + m."""
    q = fields(blocks[:, 8:24], 1, 4) | fields(blocks[:, 4:8], 4, 1) << 4  # (N, 32)
    return _values(q).mul_(half(blocks, 0)).add_(half(blocks, 2))


def decode_q8_0(blocks: Tensor) -> Tensor:
    """d, 32 signed bytes: d * q."""
    return _signed(blocks[:, 2:34]).mul_(half(blocks, 0))


def decode_q2_k(blocks: Tensor) -> Tensor:
    """16 scales (low nibble) and minima (high), 64 bytes of 2-bit q, d, m; 16 sub-blocks of 16."""
    scales, minima = blocks[:, :16] & 15, blocks[:, :16] >> 4
    q = fields(blocks[:, 16:80], 2, 2)  # (N, 256)
    return _sub_blocks(q, half(blocks, 80) * scales, half(blocks, 82) * minima)


def decode_q3_k(blocks: Tensor) -> Tensor:
    """32 bytes of third bits, 64 bytes of the lower two, 16 6-bit scales in 12 bytes, d; 16 sub-blocks of 16."""
    # If the third bit is set, 4 is not subtracted.
    q = fields(blocks[:, 32:96], 2, 2) | fields(blocks[:, :32], 1, 1) << 2  # (N, 256)
    scales = fields(blocks[:, 96:104], 1, 4) | fields(blocks[:, 104:108], 1, 2) << 4  # (N, 16)
    return _sub_blocks(q, half(blocks, 108) * _values(scales, offset=32), offset=4)


def decode_q4_k(blocks: Tensor) -> Tensor:
    """d, m, 8 6-bit scales and minima in 12 bytes, 128 bytes of nibbles; 8 sub-blocks of 32."""
    scales, minima = scales_and_minima(blocks[:, 4:16])
    q = fields(blocks[:, 16:144], 4, 4)  # (N, 256)
    return _sub_blocks(q, half(blocks, 0) * scales, half(blocks, 2) * minima)


def decode_q5_k(blocks: Tensor) -> Tensor:
    """Like Q4_K, with 32 bytes of fifth bits before the nibbles."""
    scales, minima = scales_and_minima(blocks[:, 4:16])
    q = fields(blocks[:, 48:176], 4, 4) | fields(blocks[:, 16:48], 1, 1) << 4  # (N, 256)
    return _sub_blocks(q, half(blocks, 0) * scales, half(blocks, 2) * minima)


def decode_q6_k(blocks: Tensor) -> Tensor:
    """128 bytes of nibbles, 64 bytes of upper two bits, 16 signed scales, d; 16 sub-blocks of 16."""
    q = fields(blocks[:, :128], 2, 4) | fields(blocks[:, 128:192], 2, 2) << 4  # (N, 256)
    return _sub_blocks(q, half(blocks, 208) * _signed(blocks[:, 192:208]), offset=32)


def decode_iq4_nl(blocks: Tensor) -> Tensor:
    """d, 16 bytes of nibbles: d * level[q]."""
    return _levels(fields(blocks[:, 2:18], 1, 4), IQ4_LEVELS).mul_(half(blocks, 0))


def decode_iq4_xs(blocks: Tensor) -> Tensor:
    """d, upper 2 bits of 8 scales, their lower 4, 128 bytes of nibbles; 8 sub-blocks of 32, levels as IQ4_NL."""
    levels = _levels(fields(blocks[:, 8:136], 8, 4), IQ4_LEVELS)  # (N, 256)
    levels.view(-1, 8, 32).mul_(iq4_xs_scales(blocks).unsqueeze(-1))
    return levels


def iq4_xs_scales(blocks: Tensor) -> Tensor:
    """The scales of the sub-blocks of IQ4_XS, float32 (N, 8)."""
    scales = fields(blocks[:, 4:8], 4, 4) | fields(blocks[:, 2:4], 2, 2) << 4  # (N, 8)
    return half(blocks, 0) * _values(scales, offset=32)


def decode_mxfp4(blocks: Tensor) -> Tensor:
    """A power of two (E8M0), 16 bytes of FP4 nibbles: 2^(e - 127) * fp4[q]."""
    return _levels(fields(blocks[:, 1:17], 1, 4), FP4_LEVELS).mul_(mxfp4_scales(blocks))


def mxfp4_scales(blocks: Tensor) -> Tensor:
    """Half the scales of MXFP4, because the levels are doubled: 2^(e - 128), float32 (N, 1)."""
    exponent = blocks[:, :1].int()
    # The bits of the numbers; subnormal for e < 2.
    bits = torch.where(exponent < 2, 0x200000 << exponent, (exponent - 1) << 23)
    return bits.view(torch.float32)


def fields(packed: Tensor, groups: int, bits: int) -> Tensor:
    """Unpack bytes into fields of `bits` bits: (N, G * W) -> (N, G * (8 / bits) * W).

    For each of the G groups: the lowest fields of its W bytes, then the next higher ones, and so on.
    """
    per_byte = 8 // bits
    packed = packed.reshape(packed.shape[0], groups, packed.shape[1] // groups)  # (N, G, W)
    fields = packed.new_empty(packed.shape[0], groups, per_byte, packed.shape[2])
    for index in range(per_byte):
        torch.bitwise_right_shift(packed, bits * index, out=fields[:, :, index])
    return fields.bitwise_and_((1 << bits) - 1).flatten(1)


def half(blocks: Tensor, at: int) -> Tensor:
    """The half-precision number at byte `at` of each block, float32 (N, 1)."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _signed(values: Tensor) -> Tensor:
    return values.view(torch.int8).float()


def _values(q: Tensor, offset: int = 0) -> Tensor:
    """Small unsigned integers minus `offset`, as float32."""
    return q.float() if offset == 0 else q.sub_(offset).view(torch.int8).float()


def _levels(q: Tensor, levels: tuple[int, ...]) -> Tensor:
    table = torch.tensor(levels, dtype=torch.float32, device=q.device)
    return table.index_select(0, q.flatten().int()).view(q.shape)


def _sub_blocks(q: Tensor, scale: Tensor, minimum: Tensor | None = None, offset: int = 0) -> Tensor:
    """Compute scale * (q - offset) - minimum: q (N, 256), scale and minimum (N, S) for S sub-blocks."""
    values = _values(q, offset)
    parts = values.view(*scale.shape, values.shape[1] // scale.shape[1]).mul_(scale.unsqueeze(-1))  # (N, S, 256 / S)
    if minimum is not None:
        parts.sub_(minimum.unsqueeze(-1))
    return values


def scales_and_minima(packed: Tensor) -> tuple[Tensor, Tensor]:
    """The 8 scales and 8 minima of 6 bits, packed in 12 bytes (`get_scale_min_k4`): two of (N, 8)."""
    first, second, mixed = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = torch.cat([first & 63, mixed & 15 | first >> 6 << 4], dim=1)
    minima = torch.cat([second & 63, mixed >> 4 | second >> 6 << 4], dim=1)
    return scales, minima
