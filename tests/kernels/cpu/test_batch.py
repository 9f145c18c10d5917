"""Several texts in one call of the kernel: each gets the logits it would get alone, to the last bit."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch

from llmcli.errors import PromptTooLongError
from llmcli.kernels.base import NoKernelError
from llmcli.kernels.cpu.build import Variant, load_library
from llmcli.kernels.cpu.step import CpuStep
from llmcli.model import KVCache, Transformer
from tests.support.models.newer_cases import NEWER, SPANNING_NEWER
from tests.support.models.parity_cases import CASES, SPANNING
from tests.support.models.random_models import in_bfloat16, pack_model, random_model
from tests.support.models.tiny import random_ids

LENGTHS = [3, 70, 1, 95, 9, 100, 64, 30, 2, 88, 17, 40, 5, 66, 21, 50]


@pytest.fixture(params=[*SPANNING, *SPANNING_NEWER], scope="module")
def model(request: pytest.FixtureRequest) -> Transformer:
    model_type, overrides = {**CASES, **NEWER}[request.param]
    return random_model(model_type, **overrides)


def read(step: CpuStep, model: Transformer, lengths: Sequence[int]) -> list[KVCache]:
    """A cache for each of `count` texts of different lengths, with room to grow."""
    caches = []
    for row, length in enumerate(lengths):
        cache = model.new_cache(capacity=4)
        cache.expected_length = length + (20 if row % 2 else 0)
        step.forward(random_ids(length, seed=row), cache)
        caches.append(cache)
    return caches


def assert_rows_are_as_alone(step: CpuStep, model: Transformer, lengths: Sequence[int], turns: int = 3) -> None:
    together, apart = read(step, model, lengths), read(step, model, lengths)
    for turn in range(turns):
        ids = random_ids(len(lengths), seed=100 + turn)
        alone = torch.cat([step.forward([token], cache) for token, cache in zip(ids, apart, strict=True)])
        assert torch.equal(step.forward_rows(ids, together), alone)
    assert [cache.length for cache in together] == [length + turns for length in lengths]


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int4"])
def test_a_row_gets_the_logits_of_its_text_alone(model: Transformer, kind: str) -> None:
    if kind == "bfloat16":
        model = in_bfloat16(model)
    elif kind == "int4":
        model = pack_model(copy.deepcopy(model), 4)
    step = CpuStep(model, threads=2, library=load_library())
    for count in (1, 3, 16):
        assert_rows_are_as_alone(step, model, LENGTHS[:count])


@pytest.mark.parametrize("threads", [1, 3, 5])
def test_batches_on_any_number_of_threads(threads: int) -> None:
    # With few heads and long texts, keys are split among threads, differently for each length.
    model = random_model("llama", num_key_value_heads=1, max_position_embeddings=1000)
    step = CpuStep(model, threads=threads, library=load_library())
    assert_rows_are_as_alone(step, model, [500, 3, 129, 64, 700, 66, 1])


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["avx2", "portable"])
@pytest.mark.parametrize("bits", [None, 4, 8])
def test_batches_with_every_instruction_set(variant: Variant, bits: int | None) -> None:
    try:
        library = load_library(variant)
    except NoKernelError as error:
        pytest.skip(str(error))
    model = random_model("gemma2", sliding_window=20)
    if bits is not None:
        pack_model(model, 4 if bits == 4 else 8)
    assert_rows_are_as_alone(CpuStep(model, threads=2, library=library), model, LENGTHS)


def test_texts_with_different_rotations() -> None:
    scaling = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    model = random_model("llama", rope_parameters=scaling, max_position_embeddings=32)
    step = CpuStep(model, threads=2, library=load_library())
    assert_rows_are_as_alone(step, model, [5, 40, 29, 60])


def test_batches_out_of_bounds_are_refused() -> None:
    model = random_model("gpt2")
    step = CpuStep(model, threads=1, library=load_library())
    caches = read(step, model, [3] * 33)
    with pytest.raises((ValueError, IndexError)):
        step.forward_rows([1] * 33, caches)
    with pytest.raises(ValueError, match="refuses"):
        step.forward_rows([1, 1 << 20], caches[:2])
    assert [cache.length for cache in caches] == [3] * 33
    full = read(step, model, [128])
    with pytest.raises(PromptTooLongError):
        step.forward_rows([1, 1], [caches[0], full[0]])
