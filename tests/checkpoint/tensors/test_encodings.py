"""Decoders of stored values, checked bit for bit against the reference implementation in the `gguf` package."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from llmcli.checkpoint.tensors.dtypes import GGML_TYPES
from llmcli.checkpoint.tensors.encodings import ENCODINGS, Encoding

BLOCKS = [encoding for encoding in ENCODINGS.values() if encoding.dtype is None]
PLAIN = [encoding for encoding in ENCODINGS.values() if encoding.dtype is not None]


def random_blocks(encoding: Encoding, count: int = 3000) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    blocks = torch.randint(0, 256, (count, encoding.block_bytes), dtype=torch.uint8, generator=generator)
    # Every byte value at every position, all bits clear, and all bits set.
    blocks[:256] = torch.arange(256, dtype=torch.uint8)[:, None]
    # Ascending and descending bytes reveal swapped positions, which constant bytes do not.
    blocks[256] = torch.arange(encoding.block_bytes, dtype=torch.uint8)
    return blocks


def same_bits(ours: Tensor, theirs: Tensor) -> bool:
    return bool(((ours.view(torch.int32) == theirs.view(torch.int32)) | (ours.isnan() & theirs.isnan())).all())


@pytest.mark.parametrize("encoding", BLOCKS, ids=lambda encoding: encoding.name)
def test_blocks_decode_like_the_gguf_package(encoding: Encoding) -> None:
    blocks = random_blocks(encoding)
    with np.errstate(all="ignore"):  # infinite scales, which random bytes contain
        theirs = gguf.quants.dequantize(blocks.numpy(), gguf.GGMLQuantizationType[encoding.name])
    ours = encoding.decode(blocks)
    assert ours.dtype == torch.float32
    assert ours.shape == (len(blocks), encoding.block_size)
    assert same_bits(ours, torch.from_numpy(theirs))
    assert ours.isfinite().float().mean() > 0.9


@pytest.mark.parametrize("encoding", BLOCKS, ids=lambda encoding: encoding.name)
def test_blocks_decode_independently_and_are_not_modified(encoding: Encoding) -> None:
    blocks = random_blocks(encoding, 300)
    before = blocks.clone()
    whole = encoding.decode(blocks)
    assert torch.equal(blocks, before)
    assert same_bits(encoding.decode(blocks[123:125]), whole[123:125])
    assert same_bits(encoding.decode(blocks[7:8]), whole[7:8])
    assert encoding.decode(blocks[:0]).shape == (0, encoding.block_size)


@pytest.mark.parametrize("encoding", PLAIN, ids=lambda encoding: encoding.name)
def test_plain_numbers_are_views_of_the_stored_bytes(encoding: Encoding) -> None:
    assert encoding.dtype is not None
    stored = torch.randint(0, 2, (6, encoding.block_bytes), dtype=torch.uint8)
    values = encoding.decode(stored)
    assert (values.shape, values.dtype) == ((6, 1), encoding.dtype)
    assert values.data_ptr() == stored.data_ptr()
    assert encoding.is_floating_point == encoding.dtype.is_floating_point


def test_type_numbers_and_sizes_equal_those_of_the_gguf_package() -> None:
    for kind in gguf.GGMLQuantizationType:
        assert GGML_TYPES[kind.value] == kind.name
        encoding = ENCODINGS.get(kind.name)
        if encoding is not None:
            assert (encoding.block_size, encoding.block_bytes) == gguf.GGML_QUANT_SIZES[kind]
            assert encoding.nbytes(3 * encoding.block_size) == 3 * encoding.block_bytes
    assert len(set(GGML_TYPES.values())) == len(GGML_TYPES)
    # Every type of ggml's that decodes to floats is in its list, under the same name.
    assert {encoding.name for encoding in BLOCKS} <= set(GGML_TYPES.values())
