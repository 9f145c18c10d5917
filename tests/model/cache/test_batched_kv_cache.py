"""Batched decoding in the readable model: each text gets the logits it would get alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch

from llmcli.errors import PromptTooLongError
from llmcli.model import KVCache, Transformer
from llmcli.model.cache.batched_kv_cache import BatchedKVCache
from tests.support.models.parity_cases import CASES
from tests.support.models.random_models import random_model
from tests.support.models.tiny import random_ids

# Between them: windows, chunks, sinks, softcaps, learned positions, scaled queries, experts, latent attention.
SOME = ("smollm", "gemma 2", "gpt-2", "gpt-oss", "llama 4", "deepseek v2, groups, yarn")
LENGTHS = [3, 70, 1, 95, 9, 100, 30]


@pytest.fixture(params=SOME, scope="module")
def model(request: pytest.FixtureRequest) -> Transformer:
    model_type, overrides = CASES[request.param]
    return random_model(model_type, **overrides)


def read(model: Transformer, length: int, seed: int, expected: int = 0) -> KVCache:
    cache = model.new_cache(capacity=4)
    cache.expected_length = expected
    model(torch.tensor([random_ids(length, seed=seed)]), cache)
    return cache


def new_rows(model: Transformer, count: int) -> BatchedKVCache:
    return BatchedKVCache(model.config, count, dtype=model.dtype, device=model.device)


@torch.inference_mode()
def differences(model: Transformer, lengths: Sequence[int], *, free: Sequence[int] = (), turns: int = 3) -> list[float]:
    """The greatest relative difference of each row's logits from those of its text alone; `free` rows are empty."""
    together = new_rows(model, len(lengths))
    apart = [read(model, length, row, length + 20 * (row % 2)) for row, length in enumerate(lengths)]
    for row, cache in enumerate(apart):
        if row not in free:
            together.enter(row, cache)
    found = [0.0] * len(lengths)
    for turn in range(turns):
        ids = random_ids(len(lengths), seed=100 + turn)
        logits = model.forward_rows({row: ids[row] for row in range(len(ids)) if row not in free}, together)
        for row, cache in enumerate(apart):
            if row in free:
                continue
            alone = model(torch.tensor([[ids[row]]]), cache)[0, 0]
            found[row] = max(found[row], float((logits[row] - alone).norm() / alone.norm()))
    assert together.lengths == [0 if row in free else length + turns for row, length in enumerate(lengths)]
    return found


def test_a_row_gets_the_logits_of_its_text_alone(model: Transformer) -> None:
    assert max(differences(model, LENGTHS)) < 5e-6
    assert max(differences(model, LENGTHS, free=[0, 3])) < 5e-6


def test_texts_longer_than_the_first_allocation() -> None:
    model = random_model("mistral", max_position_embeddings=2000, sliding_window=None)
    assert max(differences(model, [255, 3, 700, 254], turns=5)) < 5e-6


def test_texts_with_different_rotations() -> None:
    scaling = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    model = random_model("llama", rope_parameters=scaling, max_position_embeddings=32)
    assert max(differences(model, [5, 40, 29, 60])) < 5e-6


@torch.inference_mode()
def test_the_logits_of_a_row_do_not_depend_on_other_rows(model: Transformer) -> None:
    model = copy.deepcopy(model)
    for neighbor in (5, 120):
        together = new_rows(model, 4)
        together.enter(1, read(model, 40, seed=7))
        # The row's former text must not be visible either.
        together.enter(2, read(model, 90, seed=1))
        together.enter(2, read(model, neighbor, seed=2))
        # A step without a row leaves its text unchanged.
        model.forward_rows({1: 5}, together)
        logits = model.forward_rows({1: 17, 2: neighbor}, together)[1]
        assert together.lengths == [0, 42, neighbor + 1, 0]
        if neighbor == 5:
            first = logits
    if model.config.layers[-1].experts is None:
        assert torch.equal(first, logits)
    else:
        # Tokens of one expert are multiplied together, so the product's shape depends on other rows.
        torch.testing.assert_close(first, logits, rtol=1e-5, atol=1e-5)


def test_a_row_past_the_learned_positions_is_refused() -> None:
    model = random_model("gpt2")
    with torch.inference_mode():
        together = new_rows(model, 2)
        together.enter(1, read(model, 128, seed=0))
        with pytest.raises(PromptTooLongError):
            model.forward_rows({1: 1}, together)
        together.leave(1)
        assert model.forward_rows({0: 1}, together).shape == (2, model.config.vocab_size)
