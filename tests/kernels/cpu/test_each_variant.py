"""Several tokens of a text in one call of `forward_each`: each gets the logits of a separate call."""

from __future__ import annotations

import copy

import pytest
import torch

from llmcli.errors import PromptTooLongError
from llmcli.kernels.cpu.build import load_library
from llmcli.kernels.cpu.step import CpuStep
from llmcli.model import KVCache, Transformer
from tests.support.models.newer_cases import NEWER, SPANNING_NEWER
from tests.support.models.parity_cases import CASES, SPANNING
from tests.support.models.random_models import in_bfloat16, pack_model, random_model
from tests.support.models.tiny import random_ids


def read(step: CpuStep, model: Transformer, length: int) -> KVCache:
    cache = model.new_cache(capacity=4)
    cache.expected_length = 128
    step.forward(random_ids(length), cache)
    return cache


def assert_as_one_by_one(step: CpuStep, model: Transformer, length: int, count: int) -> None:
    """Also after the cache was truncated."""
    together, apart = read(step, model, length), read(step, model, length)
    for turn, kept in enumerate((count, 1, count // 2)):
        ids = random_ids(count, seed=turn)
        one_by_one = torch.cat([step.forward([token], apart) for token in ids])
        assert torch.equal(step.forward_each(ids, together), one_by_one)
        for cache in (together, apart):
            cache.truncate(cache.length - count + kept)
    assert together.length == apart.length


@pytest.fixture(params=[*SPANNING, *SPANNING_NEWER], scope="module")
def model(request: pytest.FixtureRequest) -> Transformer:
    model_type, overrides = {**CASES, **NEWER}[request.param]
    return random_model(model_type, **overrides)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int4"])
def test_several_tokens_equal_calls_of_one_token(model: Transformer, kind: str) -> None:
    if kind == "bfloat16":
        model = in_bfloat16(model)
    elif kind == "int4":
        model = pack_model(copy.deepcopy(model), 4)
    step = CpuStep(model, threads=2, library=load_library())
    for length, count in ((1, 16), (40, 4), (70, 5)):
        assert_as_one_by_one(step, model, length, count)


@pytest.mark.parametrize("threads", [1, 3])
def test_several_tokens_on_any_number_of_threads(threads: int) -> None:
    # With few heads and a long text, keys are split among threads, differently for each token.
    model = random_model("llama", num_key_value_heads=1, max_position_embeddings=1000)
    step = CpuStep(model, threads=threads, library=load_library())
    for length in (62, 126, 700):
        assert_as_one_by_one(step, model, length, 7)


def test_rotations_that_depend_on_the_expected_length() -> None:
    scaling = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    model = random_model("llama", rope_parameters=scaling, max_position_embeddings=32)
    assert_as_one_by_one(CpuStep(model, threads=2, library=load_library()), model, 27, 10)


def test_several_tokens_out_of_bounds_are_refused() -> None:
    model = random_model("gpt2")
    step = CpuStep(model, threads=1, library=load_library())
    cache = read(step, model, 125)
    with pytest.raises(PromptTooLongError):
        step.forward_each([1] * 4, cache)
    with pytest.raises((ValueError, IndexError)):
        step.forward_each([1] * 17, read(step, model, 3))
    assert cache.length == 125
    assert step.forward_each([1] * 3, cache).shape[0] == 3
