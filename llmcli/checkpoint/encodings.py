"""How the values of a tensor are stored in a file: a registry of plain number types and of block formats.

The names are those of safetensors (`F32`, `BF16`, ...) and of ggml (`Q4_K`, ...), which agree where they overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcli.checkpoint import blocks


@dataclass(frozen=True)
class Encoding:
    """One way to store values, `block_size` of them in `block_bytes` bytes."""

    name: str
    block_size: int
    block_bytes: int
    decode: Callable[[Tensor], Tensor]
    """From uint8 (N, block_bytes) to (N, block_size): float32 for block formats, a view in `dtype` for plain ones."""
    dtype: torch.dtype | None = None
    """The number type if values are stored one by one, little-endian; None for block formats."""

    @property
    def is_floating_point(self) -> bool:
        """Whether the values are real numbers, as weights are."""
        return self.dtype is None or self.dtype.is_floating_point

    def nbytes(self, values: int) -> int:
        """The bytes that `values` values take, a multiple of `block_size` of them."""
        return values // self.block_size * self.block_bytes


def _plain(name: str, dtype: torch.dtype) -> Encoding:
    return Encoding(name, 1, dtype.itemsize, lambda stored: stored.view(dtype), dtype)


_PLAIN = {
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
_BLOCKS = (
    Encoding("Q4_0", 32, 18, blocks.decode_q4_0),
    Encoding("Q4_1", 32, 20, blocks.decode_q4_1),
    Encoding("Q5_0", 32, 22, blocks.decode_q5_0),
    Encoding("Q5_1", 32, 24, blocks.decode_q5_1),
    Encoding("Q8_0", 32, 34, blocks.decode_q8_0),
    Encoding("Q2_K", 256, 84, blocks.decode_q2_k),
    Encoding("Q3_K", 256, 110, blocks.decode_q3_k),
    Encoding("Q4_K", 256, 144, blocks.decode_q4_k),
    Encoding("Q5_K", 256, 176, blocks.decode_q5_k),
    Encoding("Q6_K", 256, 210, blocks.decode_q6_k),
    Encoding("IQ4_NL", 32, 18, blocks.decode_iq4_nl),
    Encoding("IQ4_XS", 256, 136, blocks.decode_iq4_xs),
    Encoding("MXFP4", 32, 17, blocks.decode_mxfp4),
)

ENCODINGS: dict[str, Encoding] = {
    **{name: _plain(name, dtype) for name, dtype in _PLAIN.items()},
    **{encoding.name: encoding for encoding in _BLOCKS},
}
"""Every encoding whose values we can read, by name."""

UNSUPPORTED_SAFETENSORS_TYPES = frozenset({"F4", "F6_E2M3", "F6_E3M2"})
"""Types of less than a byte that the safetensors format knows and we do not read."""

GGML_TYPES: dict[int, str] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    4: "Q4_2",
    5: "Q4_3",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    30: "BF16",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    34: "TQ1_0",
    35: "TQ2_0",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
    39: "MXFP4",
    40: "NVFP4",
    41: "Q1_0",
}
"""The names of ggml's tensor types by their number in GGUF files (`enum ggml_type`), read by us or not."""
