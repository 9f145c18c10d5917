"""Encodings of stored tensors with their decoders: plain number types and ggml block formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from llmcli.checkpoint.tensors.dtypes import LAYOUTS, Layout
from llmcli.checkpoint.tensors.ggml import blocks, low_bits


@dataclass(frozen=True)
class Encoding(Layout):
    """A `Layout` with the function that decodes it."""

    decode: Callable[[Tensor], Tensor]
    """Decodes uint8 (N, block_bytes) to (N, block_size): float32 for blocks, a view in `dtype` for plain numbers."""
    dtype: torch.dtype | None = None
    """The dtype of plain numbers, little-endian; None for block formats."""

    @property
    def is_floating_point(self) -> bool:
        """Whether the values are floats, as those of weights are."""
        return self.dtype is None or self.dtype.is_floating_point


_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_DECODERS: dict[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": blocks.decode_q4_0,
    "Q4_1": blocks.decode_q4_1,
    "Q5_0": blocks.decode_q5_0,
    "Q5_1": blocks.decode_q5_1,
    "Q8_0": blocks.decode_q8_0,
    "Q2_K": blocks.decode_q2_k,
    "Q3_K": blocks.decode_q3_k,
    "Q4_K": blocks.decode_q4_k,
    "Q5_K": blocks.decode_q5_k,
    "Q6_K": blocks.decode_q6_k,
    "IQ4_NL": blocks.decode_iq4_nl,
    "IQ4_XS": blocks.decode_iq4_xs,
    "MXFP4": blocks.decode_mxfp4,
    **{name: low_bits.decoder(name) for name in low_bits.SCALED},
}


def _encoding(layout: Layout) -> Encoding:
    dtype = _DTYPES.get(layout.name)
    if dtype is None:
        return Encoding(**asdict(layout), decode=_DECODERS[layout.name])
    return Encoding(**asdict(layout), decode=lambda stored: stored.view(dtype), dtype=dtype)


ENCODINGS: dict[str, Encoding] = {name: _encoding(layout) for name, layout in LAYOUTS.items()}
"""All encodings that can be read, by name."""
