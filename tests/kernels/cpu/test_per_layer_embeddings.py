"""Per-layer embeddings in the C kernel: tables in every encoding, and prompts whose last layers read shared keys."""

from __future__ import annotations

import copy

import pytest
import torch

from llmcli.checkpoint.tensors.encodings import ENCODINGS
from llmcli.kernels.base import NoKernelError
from llmcli.kernels.cpu import support
from llmcli.kernels.cpu.step import CpuStep
from llmcli.model import Transformer
from llmcli.model.quantized.stored_embedding import StoredEmbedding, StoredFormat
from tests.support.kernels.cpu_step import IDS, assert_close, error, expected, fresh, in_pieces, library
from tests.support.kernels.packed_blocks import sound_blocks
from tests.support.models.parity_cases import CASES
from tests.support.models.random_models import pack_model, random_model


@pytest.fixture(scope="module")
def model() -> Transformer:
    model_type, overrides = CASES["gemma 4, small"]
    # Rows are whole blocks of 256 values.
    return random_model(
        model_type, **{**overrides, "hidden_size_per_layer_input": 64, "vocab_size_per_layer_input": 100}
    )


def with_table(model: Transformer, encoding: str) -> Transformer:
    """The model with a random table in blocks of a file's encoding."""
    changed, layout = copy.deepcopy(model), ENCODINGS[encoding]
    assert changed.per_layer_embeddings is not None
    tokens, columns = changed.per_layer_embeddings.tokens, 4 * 64
    kept = StoredFormat(encoding, layout.block_size, layout.block_bytes)
    table = StoredEmbedding(kept, layout.decode, tokens, columns, dtype=torch.float32)
    if layout.dtype is None:
        table.stored.copy_(sound_blocks(encoding, tokens, columns // layout.block_size).flatten(1))
    else:
        table.stored.copy_(torch.randn(tokens, columns).mul(0.1).to(layout.dtype).view(torch.uint8))
    changed.per_layer_embeddings.embed_tokens = table
    return changed


@pytest.mark.parametrize("encoding", support.ENCODINGS)
def test_rows_are_decoded_as_in_torch(model: Transformer, encoding: str) -> None:
    changed = with_table(model, encoding)
    step = CpuStep(changed, threads=2, library=library())
    # The first of these tokens are behind the table's end and have the row of token 0.
    assert max(IDS[:20]) >= 100
    assert error(in_pieces(step, fresh(changed), (1, 16, 3)), expected(changed)[:20]) < 5e-6


def test_other_encodings_are_refused_by_name(model: Transformer) -> None:
    with pytest.raises(NoKernelError, match="per-layer embeddings are stored as MXFP4"):
        CpuStep(with_table(model, "MXFP4"), library=library())


def test_a_prompt_in_one_pass_and_the_tokens_after_it(model: Transformer) -> None:
    """Only the last of the prompt's tokens goes through the layers that read shared keys."""
    packed = pack_model(copy.deepcopy(model), 8)
    step, cache = CpuStep(packed, threads=2, library=library()), fresh(packed)
    parts = [step.forward(IDS[start:stop], cache) for start, stop in ((0, 33), (33, 50), (50, 51))]
    assert_close(packed, 8, parts[-1], IDS[:51])
    assert_close(packed, 8, parts[1], IDS[:50])
    assert step.greatest == (int(parts[-1].argmax()), float(parts[-1].max()))
