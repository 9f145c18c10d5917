"""Multi-token calls of the kernel give the tokens that decode steps and `Sampler` give one by one."""

from __future__ import annotations

import copy

import pytest
import torch

from llmcli.engine import SamplingParams
from llmcli.errors import PromptTooLongError
from llmcli.kernels.cpu.build import Variant, load_library
from llmcli.kernels.cpu.step import CpuStep
from llmcli.kernels.sampling_filters import SamplingRequest
from llmcli.model import Transformer
from tests.support.kernels.cpu_step import assert_as_one_by_one
from tests.support.models.newer_cases import NEWER, SPANNING_NEWER
from tests.support.models.parity_cases import CASES, SPANNING
from tests.support.models.random_models import in_bfloat16, pack_model, random_model
from tests.support.models.tiny import random_ids

FILTERS = (
    SamplingParams(temperature=0, top_k=0),
    SamplingParams(temperature=0.7),
    SamplingParams(temperature=4.0, top_k=1000, top_p=1.0),
    SamplingParams(temperature=4.0, top_k=1, top_p=0.5),
    SamplingParams(temperature=3.0, top_k=33, top_p=0.8, min_p=0.02),
    SamplingParams(temperature=2.0, top_k=60, top_p=1.0, min_p=0.3),
    SamplingParams(temperature=1e-6, min_p=1.0),
    SamplingParams(temperature=3.0, top_p=1e-9),
)


@pytest.fixture(params=[*SPANNING, *SPANNING_NEWER], scope="module")
def model(request: pytest.FixtureRequest) -> Transformer:
    model_type, overrides = {**CASES, **NEWER}[request.param]
    return random_model(model_type, **overrides)


def test_tokens_equal_those_chosen_one_by_one(model: Transformer) -> None:
    for made, threads in ((in_bfloat16(model), 1), (pack_model(copy.deepcopy(model), 4), 2)):
        step = CpuStep(made, threads=threads, library=load_library())
        for length, params in zip((1, 40, 70), FILTERS, strict=False):
            assert_as_one_by_one(step, made, params, length, 7)


@pytest.mark.parametrize("variant", ["native", "avx2", "portable"])
def test_tokens_equal_those_of_the_sampler_for_all_filters(variant: Variant) -> None:
    model = random_model("llama", vocab_size=1500, max_position_embeddings=300)
    step = CpuStep(model, threads=1, library=load_library(variant))
    for params in FILTERS:
        assert step.capabilities.chooses(params)
        assert_as_one_by_one(step, model, params, 20, 12)


def test_the_first_of_equal_logits_is_chosen() -> None:
    model = random_model("llama", tie_word_embeddings=False, vocab_size=700)
    step, best = CpuStep(model, threads=2, library=load_library()), [17, 211, 212, 500, 699]
    with torch.no_grad():
        rows = model.lm_head.weight
        # All other logits are below zero for this token.
        rows[:] = -rows[5] * step.forward([1], model.new_cache())[0, 5].sign()
        rows[best] = 0
    params, uniforms = SamplingParams(temperature=1.0, top_k=4, top_p=1.0), [0.1, 0.3, 0.6, 0.9]
    drawn = [
        step.forward_multi_step(1, model.new_cache(), SamplingRequest(params, [uniform], 700)) for uniform in uniforms
    ]
    assert drawn == [[17], [211], [212], [500]]


def test_a_stop_token_ends_the_call(model: Transformer) -> None:
    step, params = CpuStep(model, threads=1, library=load_library()), SamplingParams(temperature=3.0)
    uniforms = [0.3, 0.9, 0.1, 0.6, 0.5]
    vocabulary = model.config.vocab_size
    cache = model.new_cache()
    step.forward([3], cache)
    ids = step.forward_multi_step(4, cache, SamplingRequest(params, uniforms, vocabulary))
    assert len(ids) == 5 and cache.length == 6
    cache = model.new_cache()
    step.forward([3], cache)
    first = ids.index(ids[2])
    choosing = SamplingRequest(params, uniforms, vocabulary, ends=[vocabulary, ids[2]])
    assert step.forward_multi_step(4, cache, choosing) == ids[: first + 1]
    assert cache.length == 2 + first


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("params", [FILTERS[0], FILTERS[1]])
def test_logits_that_are_not_finite_end_the_call(value: float, params: SamplingParams) -> None:
    model = random_model("llama")
    step = CpuStep(model, threads=2, library=load_library())
    cache = model.new_cache()
    step.forward([1, 2], cache)
    with torch.no_grad():
        model.get_parameter("norm.weight")[:] = value
    assert step.forward_multi_step(3, cache, SamplingRequest(params, [0.5] * 4, 20)) == [-1]


@pytest.mark.parametrize("params", [FILTERS[0], FILTERS[1]])
def test_padding_logits_need_not_be_finite(params: SamplingParams) -> None:
    model = random_model("llama", tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight[100] = torch.nan
        model.lm_head.weight[101] = torch.inf
    step = CpuStep(model, threads=2, library=load_library())
    chosen = [
        step.forward_multi_step(3, model.new_cache(), SamplingRequest(params, [0.5] * 2, size)) for size in (100, 101)
    ]
    assert len(chosen[0]) == 2 and max(chosen[0]) < 100 and min(chosen[0]) >= 0
    assert chosen[1] == [-1]


def test_unsupported_filters_are_refused(model: Transformer) -> None:
    step = CpuStep(model, threads=1, library=load_library())
    for params in (
        SamplingParams(top_k=0),
        SamplingParams(top_k=1025),
        SamplingParams(repeat_penalty=1.1),
        SamplingParams(temperature=0, repeat_penalty=1.1),
    ):
        assert not step.capabilities.chooses(params)
        if params.repeat_penalty == 1:
            with pytest.raises(ValueError, match="6"):
                step.forward_multi_step(1, model.new_cache(), SamplingRequest(params, [0.5], 9))


def test_multi_step_calls_out_of_bounds_are_refused() -> None:
    model = random_model("gpt2")
    step = CpuStep(model, threads=1, library=load_library())
    cache = model.new_cache()
    step.forward(random_ids(125), cache)
    with pytest.raises(PromptTooLongError):
        step.forward_multi_step(1, cache, SamplingRequest(FILTERS[0], [0.0] * 4, 9))
    for token, count, vocabulary in ((1, 0, 9), (-1, 1, 9), (1, 1, 0), (1, 1, model.config.vocab_size + 1)):
        with pytest.raises(ValueError, match="refuses"):
            step.forward_multi_step(token, cache, SamplingRequest(FILTERS[0], [0.0] * count, vocabulary))
    assert cache.length == 125
    assert len(step.forward_multi_step(1, cache, SamplingRequest(FILTERS[0], [0.0] * 3, 9))) == 3
