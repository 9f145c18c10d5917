"""Sizes of stored values, so that headers can be checked without importing torch.

Names are those of safetensors (`F32`, `BF16`, ...) and ggml (`Q4_K`, ...), which agree where they overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Layout:
    """An encoding with `block_size` values in `block_bytes` bytes; plain numbers have blocks of one value."""

    name: str
    block_size: int
    block_bytes: int

    def nbytes(self, values: int) -> int:
        """Bytes that `values` values take, a multiple of `block_size`."""
        return values // self.block_size * self.block_bytes


_NUMBER_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E4M3FNUZ": 1,
    "F8_E5M2FNUZ": 1,
    "F8_E8M0": 1,
    "C64": 8,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}
_BLOCKS = (
    Layout("Q4_0", 32, 18),
    Layout("Q4_1", 32, 20),
    Layout("Q5_0", 32, 22),
    Layout("Q5_1", 32, 24),
    Layout("Q8_0", 32, 34),
    Layout("Q2_K", 256, 84),
    Layout("Q3_K", 256, 110),
    Layout("Q4_K", 256, 144),
    Layout("Q5_K", 256, 176),
    Layout("Q6_K", 256, 210),
    Layout("IQ4_NL", 32, 18),
    Layout("IQ4_XS", 256, 136),
    Layout("MXFP4", 32, 17),
    Layout("TQ1_0", 256, 54),
    Layout("TQ2_0", 256, 66),
    Layout("IQ1_S", 256, 50),
    Layout("IQ1_M", 256, 56),
    Layout("IQ2_XXS", 256, 66),
    Layout("IQ2_XS", 256, 74),
    Layout("IQ2_S", 256, 82),
    Layout("IQ3_XXS", 256, 98),
    Layout("IQ3_S", 256, 110),
)

NUMBERS: dict[str, Layout] = {name: Layout(name, 1, size) for name, size in _NUMBER_BYTES.items()}
"""Plain number types, little-endian."""

LAYOUTS: dict[str, Layout] = {**NUMBERS, **{layout.name: layout for layout in _BLOCKS}}
"""All encodings that can be read, by name."""

CODES_KEPT: dict[str, Literal[4, 8]] = {
    "Q4_0": 4,
    "Q4_1": 4,
    "Q4_K": 4,
    "Q5_0": 8,
    "Q8_0": 8,
    "IQ1_S": 4,
    "IQ2_XXS": 8,
    "IQ3_XXS": 8,
    "IQ3_S": 8,
    "IQ4_NL": 8,
    "IQ4_XS": 8,
    "MXFP4": 8,
    "TQ1_0": 4,
    "TQ2_0": 4,
}
"""Block formats whose codes packed weights keep, and bits of a packed code; the others are rounded to 8 bits."""

UNSUPPORTED_SAFETENSORS_TYPES = frozenset({"F4", "F6_E2M3", "F6_E3M2"})
"""Types of less than a byte in the safetensors format; not supported."""

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
"""Names of ggml's tensor types by number (`enum ggml_type`), including unsupported ones."""
