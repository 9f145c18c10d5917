"""Random blocks in the formats of GGUF, and empty matrices to pack them into."""

from __future__ import annotations

import torch

from llmcli.checkpoint.tensors.encodings import ENCODINGS
from llmcli.checkpoint.tensors.ggml.grids import grid_bytes
from llmcli.checkpoint.tensors.repack import bits_of
from llmcli.kernels.cpu.build import Variant, load_library
from llmcli.kernels.cpu.repack import BlockPacker
from llmcli.model.quantized.layout import Bits, narrow
from llmcli.model.quantized.matrix import PackedMatrix

FORMATS = [name for name in ENCODINGS if bits_of(name)]
# Where the half-precision numbers of a block are.
SCALES = {"Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,),
          "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,), "MXFP4": (),
          "TQ1_0": (52,), "TQ2_0": (64,), "IQ1_S": (0,), "IQ1_M": (), "IQ2_XXS": (0,), "IQ2_XS": (0,), "IQ2_S": (0,),
          "IQ3_XXS": (0,), "IQ3_S": (0,)}  # fmt: skip


def any_blocks(name: str, rows: int, columns: int) -> torch.Tensor:
    """Random bytes with finite scales of any value."""
    generator = torch.Generator().manual_seed(11)
    shape = (rows, columns // ENCODINGS[name].block_size, ENCODINGS[name].block_bytes)
    blocks = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    for at in SCALES[name]:
        upper = blocks[:, :, at + 1]
        upper[(upper & 0x7C) == 0x7C] &= 0xBF
    if name == "IQ1_M":
        # The highest bits of the scale are in the last byte.
        blocks[:, :, 55] &= 0xBF
    return blocks


def packer(variant: Variant = "native", extra: tuple[str, ...] = ()) -> BlockPacker:
    return BlockPacker(grid_bytes, load_library(variant, extra))


def empty_matrix(name: str, rows: int, columns: int, count: int = 1, bits: Bits | None = None) -> PackedMatrix:
    bits = bits or bits_of(name)
    assert bits is not None
    matrix = PackedMatrix(narrow(bits), rows, columns, dtype=torch.float32, count=count)
    matrix.blocks.fill_(0xA5)
    return matrix


def sound_blocks(name: str, rows: int, width: int) -> torch.Tensor:
    """Random codes, with scales of the size that real weights have."""
    generator = torch.Generator().manual_seed(7)
    size = ENCODINGS[name].block_bytes
    blocks = torch.randint(0, 256, (rows, width, size), dtype=torch.uint8, generator=generator)
    for at in SCALES[name]:
        numbers = (torch.rand(rows, width, 1, generator=generator) * 0.01 + 1e-4).half()
        blocks[:, :, at : at + 2] = numbers.view(torch.uint8)
    if name == "MXFP4":
        blocks[:, :, 0] = 120
    if name == "IQ1_M":
        # Four bits of the scale are in each of four words, the lowest in the first: 0x1800 is 0.002.
        blocks[:, :, 49:56:2] = blocks[:, :, 49:56:2] & 15 | torch.tensor([0, 0, 8, 1], dtype=torch.uint8) << 4
    return blocks
