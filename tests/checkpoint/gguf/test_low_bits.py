"""Whole models in GGUF's formats of 1 to 3 bits equal those with the values that the `gguf` package decodes."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

import llmcli
from llmcli.checkpoint.tensors.ggml.low_bits import SCALED
from llmcli.model.quantized.matrix import QuantizedLinear
from tests.support.gguf.families import made, quantized
from tests.support.gguf.writer import write_gguf
from tests.support.models.tiny import random_ids

IDS = random_ids(12)


@pytest.fixture(scope="module")
def model() -> object:
    return made("llama 3.1", hidden_size=256, intermediate_size=256, num_hidden_layers=1)


@pytest.mark.parametrize("name", SCALED)
def test_logits_equal_those_of_the_decoded_values(name: str, model: object, tmp_path: Path) -> None:
    path = write_gguf(model, tmp_path / "blocks.gguf", kind_of=quantized(Kind[name], "blk"))
    decoded = write_gguf(model, tmp_path / "decoded.gguf", kind_of=quantized(Kind[name], "blk"), decoded=True)
    expected = llmcli.load(decoded, dtype="float32", device="cpu").logits(IDS)
    assert torch.equal(llmcli.load(path, dtype="float32", device="cpu").logits(IDS), expected)
    packed = llmcli.load(path, device="cpu")
    if packed.packing is None:
        pytest.skip("nothing computes with packed weights on this machine")
    assert isinstance(packed.model.layers[0].get_submodule("mlp.down_proj"), QuantizedLinear)
    # Activations have 16 bits, and the values of some formats are rounded to 8: that can turn a head at one position.
    alike = torch.nn.functional.cosine_similarity(packed.logits(IDS).float(), expected, dim=-1)
    assert alike.median() > 0.999 and alike.min() > 0.95


def test_every_format_of_few_bits_is_one_of_the_package() -> None:
    assert all(1 < 8 * size / 256 < 4 for size in (gguf.GGML_QUANT_SIZES[Kind[name]][1] for name in SCALED))
