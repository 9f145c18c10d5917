"""Multi-token calls for several texts give each the tokens that it gets alone."""

from __future__ import annotations

import copy
from random import Random

import pytest
import torch

from llmcli.engine import SamplingParams
from llmcli.errors import PromptTooLongError
from llmcli.kernels.cpu.build import Variant, load_library
from llmcli.kernels.cpu.step import CpuStep
from llmcli.kernels.readable_step import ReadableStep
from llmcli.kernels.sampling_filters import SamplingRequest
from llmcli.model import KVCache, Transformer
from tests.support.models.newer_cases import NEWER, SPANNING_NEWER
from tests.support.models.parity_cases import CASES, SPANNING
from tests.support.models.random_models import in_bfloat16, pack_model, random_model
from tests.support.models.tiny import random_ids

LENGTHS = [3, 70, 1, 40, 9, 64, 30, 2, 17, 5, 66, 21, 50, 12, 33, 8, 60, 4, 25, 13]
FILTERS = (
    SamplingParams(temperature=0, top_k=0),
    SamplingParams(temperature=0.7),
    SamplingParams(temperature=4.0, top_k=200, top_p=1.0),
    SamplingParams(temperature=3.0, top_k=33, top_p=0.8, min_p=0.02),
)


@pytest.fixture(params=[*SPANNING, *SPANNING_NEWER], scope="module")
def model(request: pytest.FixtureRequest) -> Transformer:
    model_type, overrides = {**CASES, **NEWER}[request.param]
    return random_model(model_type, **overrides)


def texts(step: CpuStep, model: Transformer, rows: int) -> list[KVCache]:
    """Caches of texts of different lengths."""
    caches = []
    for row, length in enumerate(LENGTHS[:rows]):
        cache = model.new_cache(capacity=4)
        cache.expected_length = length + (20 if row % 2 else 0)
        step.forward(random_ids(length, seed=row), cache)
        caches.append(cache)
    return caches


def requests(model: Transformer, rows: int, most: int = 7) -> list[SamplingRequest]:
    """Different filters, and limits from one token to `most`."""
    random = Random(rows)
    return [
        SamplingRequest(
            FILTERS[row % len(FILTERS)],
            [random.random() for _ in range(1 + (row + 3) % most)],
            model.config.vocab_size - row % 3,
        )
        for row in range(rows)
    ]


def assert_rows_are_as_alone(step: CpuStep, model: Transformer, rows: int) -> None:
    together, apart = texts(step, model, rows), texts(step, model, rows)
    ids = random_ids(rows, seed=50)
    for _ in range(2):
        asked = requests(model, rows)
        found = step.forward_rows_multi_step(ids, together, asked)
        alone = [step.forward_multi_step(*each) for each in zip(ids, apart, asked, strict=True)]
        assert found == alone
        assert [cache.length for cache in together] == [cache.length for cache in apart]
        ids = [tokens[-1] for tokens in alone]
    # What the calls have left in the caches is the same too.
    logits = step.forward_rows(ids, together)
    assert torch.equal(
        logits, torch.cat([step.forward([token], cache) for token, cache in zip(ids, apart, strict=True)])
    )


def test_rows_of_different_settings_have_the_tokens_of_each_alone(model: Transformer) -> None:
    packed = pack_model(copy.deepcopy(model), 4)
    assert_rows_are_as_alone(CpuStep(packed, threads=2, library=load_library()), packed, 5)


@pytest.mark.parametrize("threads", [1, 3])
def test_as_many_rows_as_the_kernel_has(threads: int) -> None:
    model = in_bfloat16(random_model("llama", num_key_value_heads=1, max_position_embeddings=200))
    step = CpuStep(model, threads=threads, library=load_library())
    assert step.capabilities.most_rows == 32
    assert_rows_are_as_alone(step, model, len(LENGTHS))


@pytest.mark.parametrize("variant", ["avx2", "portable"])
def test_rows_with_every_instruction_set(variant: Variant) -> None:
    model = pack_model(random_model("gemma2", sliding_window=20), 4)
    assert_rows_are_as_alone(CpuStep(model, threads=2, library=load_library(variant)), model, 5)


def test_a_row_that_stops_in_mid_call_leaves_the_others_as_they_are() -> None:
    model = random_model("llama", vocab_size=1500)
    step = CpuStep(model, threads=2, library=load_library())
    ids, asked = random_ids(5), [SamplingRequest(FILTERS[2], [0.2, 0.7, 0.4, 0.9, 0.1, 0.6], 1500)] * 5
    whole = step.forward_rows_multi_step(ids, texts(step, model, 5), asked)
    asked[1] = SamplingRequest(FILTERS[2], asked[1].uniforms, 1500, [int(whole[1][2])])
    asked[3] = SamplingRequest(FILTERS[2], asked[3].uniforms, 1500, [int(whole[3][0])])
    caches = texts(step, model, 5)
    found = step.forward_rows_multi_step(ids, caches, asked)
    assert found == [whole[0], whole[1][:3], whole[2], whole[3][:1], whole[4]]
    assert [cache.length for cache in caches] == [9, 73, 7, 41, 15]


@pytest.mark.parametrize("rows", [1, 4])
def test_rows_without_a_request_have_the_logits_of_a_pass(rows: int) -> None:
    model = random_model("llama", vocab_size=300)
    step = CpuStep(model, threads=2, library=load_library())
    ids, caches, apart = random_ids(rows), texts(step, model, rows), texts(step, model, rows)
    asked = [None, *(SamplingRequest(FILTERS[1], [0.3], 300) for _ in range(rows - 1))]
    found = step.forward_rows_multi_step(ids, caches, asked)
    logits = step.forward_rows(ids, apart)
    assert isinstance(found[0], torch.Tensor) and torch.equal(found[0], logits[0])
    assert [len(tokens) for tokens in found[1:]] == [1] * (rows - 1)
    kept = found[0].clone()
    step.forward_rows_multi_step(ids, caches, requests(model, rows))
    assert torch.equal(found[0], kept)


def test_logits_that_are_not_finite_end_their_row() -> None:
    model = random_model("llama", tie_word_embeddings=False)
    step = CpuStep(model, threads=2, library=load_library())
    caches = texts(step, model, 4)
    with torch.no_grad():
        model.get_parameter("embed_tokens.weight")[7] = torch.nan
    # Token 7 itself cannot be chosen.
    asked = [SamplingRequest(FILTERS[row % 2], [0.5] * 3, 5) for row in range(4)]
    found = step.forward_rows_multi_step([1, 7, 7, 2], caches, asked)
    assert found[1] == found[2] == [-1]
    assert len(found[0]) == len(found[3]) == 3 and -1 not in (*found[0], *found[3])


def test_what_the_kernel_cannot_do_is_refused_before_anything_is_read() -> None:
    model = random_model("gpt2")
    step = CpuStep(model, threads=1, library=load_library())
    caches = texts(step, model, 2)
    one = SamplingRequest(FILTERS[1], [0.5] * 2, 20)
    with pytest.raises(ValueError, match="code 6"):
        step.forward_rows_multi_step([1, 2], caches, [None, one])
    with pytest.raises(ValueError, match="code 6"):
        step.forward_rows_multi_step([1, 2], caches, [one, SamplingRequest(SamplingParams(top_k=0), [0.5], 20)])
    with pytest.raises(ValueError, match="code 3"):
        step.forward_rows_multi_step([1, 2000000], caches, [one, one])
    with pytest.raises(PromptTooLongError):
        step.forward_rows_multi_step([1, 2], caches, [one, SamplingRequest(FILTERS[1], [0.5] * 59, 20)])
    assert [cache.length for cache in caches] == LENGTHS[:2]


def test_the_readable_model_can_replace_the_kernel_between_two_calls() -> None:
    model = random_model("llama", vocab_size=300)
    step = CpuStep(model, threads=1, library=load_library())
    caches = texts(step, model, 3)
    asked = [None, SamplingRequest(FILTERS[0], [0.5] * 3, 300), SamplingRequest(FILTERS[0], [0.5], 300)]
    found = ReadableStep(model).forward_rows_multi_step([1, 2, 3], caches, asked)
    assert [len(each) for each in found] == [300, 1, 1]
    assert [cache.length for cache in caches] == [length + 1 for length in LENGTHS[:3]]
