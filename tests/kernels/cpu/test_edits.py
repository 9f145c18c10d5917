"""The C kernel adds a model's rank-one edits, in every format and for any number of tokens in a call."""

from __future__ import annotations

import copy

import pytest
import torch

from llmcli.inspection.core.hooks import blocks
from llmcli.kernels.cpu.step import CpuStep
from llmcli.model import KVCache, Transformer
from llmcli.model.rank_one_update import attach_edit
from tests.support.kernels.cpu_step import assert_close, expected, fresh, in_pieces, library
from tests.support.models.parity_cases import CASES
from tests.support.models.random_models import pack_model, random_model
from tests.support.models.tiny import random_ids


def edited(model: Transformer) -> Transformer:
    """Attach two edits to one layer and one to another, each as large as the output they change."""
    random = torch.Generator().manual_seed(3)
    for layer in (0, 0, 2):
        sizes = model.config.intermediate_size, model.config.hidden_size
        read, write = (torch.randn(size, generator=random) for size in sizes)
        attach_edit(blocks(model)[layer].mlp, read, write)
    return model


# Together: an output norm, biases, no gate, parallel blocks.
@pytest.mark.parametrize("name", ["smollm", "gemma 2", "gpt-2", "pythia, parallel"])
@pytest.mark.parametrize("bits", [None, 4, 8])
def test_edits_are_added_in_every_format(name: str, bits: int | None) -> None:
    model_type, overrides = CASES[name]
    plain = random_model(model_type, **overrides)
    model = edited(copy.deepcopy(plain))
    if bits is not None:
        model = pack_model(model, 4 if bits == 4 else 8)
    step = CpuStep(model, threads=2, library=library())
    sizes = (1, 2, 13, 16, 5, 1, 15, 16, 1) if bits is None else (1, 2, 3, 33, 5, 1, 25)
    ours = in_pieces(step, fresh(model), sizes)
    assert_close(model, bits, ours)
    assert float((ours - expected(plain)).norm() / ours.norm()) > 0.1


def test_edited_rows_of_a_batch_equal_single_texts_to_the_last_bit() -> None:
    model = pack_model(edited(random_model("llama")), 8)
    step = CpuStep(model, threads=2, library=library())
    texts = [random_ids(length, seed=length) for length in (3, 9, 4)]

    def begun() -> list[KVCache]:
        caches = [model.new_cache() for _ in texts]
        for text, cache in zip(texts, caches, strict=True):
            step.forward(text[:-1], cache)
        return caches

    alone = [step.forward(text[-1:], cache)[0] for text, cache in zip(texts, begun(), strict=True)]
    together = step.forward_rows([text[-1] for text in texts], begun())
    assert all(torch.equal(row, one) for row, one in zip(together, alone, strict=True))
