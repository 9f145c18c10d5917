"""The kernel's recurrent layers give the readable model's logits and states, alone, in batches and in bursts."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from llmcli.engine import SamplingParams
from llmcli.kernels.cpu.build import load_library
from llmcli.kernels.cpu.step import CpuStep
from llmcli.kernels.cpu.support import unsupported
from llmcli.kernels.sampling_filters import SamplingRequest
from llmcli.model import KVCache, Transformer
from llmcli.model.mixer_config import Mamba2Config, ShortConvConfig
from tests.support.kernels.cpu_step import IDS, assert_close, error, expected, fresh, in_pieces
from tests.support.models.random_models import in_bfloat16, in_float32, pack_model, random_model
from tests.support.models.recurrent_cases import RECURRENT
from tests.support.models.tiny import random_ids

STATES = [
    "qwen 3.5", "qwen 3 next", "granite 4", "granite 4, dense", "bamba", "mamba 2", "nemotron h", "nemotron 3",
    "falcon h1", "falcon h1, normalized", "kimi linear", "ling 3",
    "nemotron 3, latent", "mamba", "falcon mamba", "jamba", "recurrent gemma",
]  # fmt: skip
CONVOLUTIONS = ["lfm 2", "lfm 2, experts", "lfm 3"]
PIECES = (1, 2, 3, 16, 5, 1, 15, 16, 11)


def made(case: str) -> Transformer:
    model_type, overrides = RECURRENT[case]
    return random_model(model_type, **overrides)


@pytest.fixture(params=[*STATES, *CONVOLUTIONS], scope="module")
def model(request: pytest.FixtureRequest) -> Transformer:
    return made(request.param)


@pytest.fixture(params=STATES, scope="module")
def with_states(request: pytest.FixtureRequest) -> Transformer:
    return made(request.param)


def assert_same_states(one: KVCache, other: KVCache, tolerance: float = 1e-4) -> None:
    for layer in range(len(one.layers)):
        first, second = one.state(layer), other.state(layer)
        if first is None or second is None:
            assert first is second
            continue
        for mine, theirs in zip(first[:2], second[:2], strict=True):
            assert mine is not None and theirs is not None
            assert torch.allclose(mine.float(), theirs.float(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("threads", [1, 3])
def test_logits_and_states_with_dense_weights(model: Transformer, threads: int) -> None:
    step = CpuStep(model, threads=threads, library=load_library())
    cache, readable = fresh(model), fresh(model)
    assert error(in_pieces(step, cache, PIECES), expected(model)) < 1e-5
    with torch.inference_mode():
        model(torch.tensor([IDS]), readable)
    assert_same_states(cache, readable)


@pytest.mark.parametrize("bits", [4, 8])
def test_logits_with_packed_weights(model: Transformer, bits: int) -> None:
    packed = pack_model(copy.deepcopy(model), 4 if bits == 4 else 8)
    step = CpuStep(packed, threads=2, library=load_library())
    assert_close(packed, bits, in_pieces(step, fresh(packed), (1, 2, 3, 33, 5, 1, 25)))


def test_bfloat16_is_as_close_to_float32_as_the_readable_model(model: Transformer) -> None:
    rounded = in_bfloat16(model)
    exact = expected(in_float32(rounded))
    step = CpuStep(rounded, threads=2, library=load_library())
    ours = in_pieces(step, fresh(rounded), PIECES)
    assert error(ours, exact) < 1.5 * error(expected(rounded).float(), exact)


def test_kernel_and_readable_model_take_turns(model: Transformer) -> None:
    step, cache = CpuStep(model, threads=2, library=load_library()), fresh(model)
    parts = []
    with torch.inference_mode():
        for start in range(0, 70, 10):
            ids = IDS[start : start + 10]
            if start % 20:
                parts.append(model(torch.tensor([ids]), cache)[0])
            else:
                parts.append(step.forward(ids, cache, only_last=False))
    assert error(torch.cat(parts), expected(model)) < 1e-5


def test_a_state_is_never_changed_in_place(with_states: Transformer) -> None:
    step, cache = CpuStep(with_states, threads=2, library=load_library()), fresh(with_states)
    step.forward(IDS[:20], cache)
    cache.mark()
    states = [cache.state(layer) for layer in range(len(cache.layers))]
    copies = copy.deepcopy(states)
    first = step.forward(IDS[20:30], cache)
    cache.truncate(20)
    assert torch.equal(step.forward(IDS[20:30], cache), first)
    for before, after in zip(copies, states, strict=True):
        assert (before is None) == (after is None)
        if before is not None and after is not None:
            assert torch.equal(before.tail, after.tail)
            assert before.sum is not None and after.sum is not None and torch.equal(before.sum, after.sum)


def test_rows_of_a_batch_are_as_alone(model: Transformer) -> None:
    packed = pack_model(copy.deepcopy(model), 4)
    step = CpuStep(packed, threads=2, library=load_library())
    together, apart = ([packed.new_cache(capacity=4) for _ in range(5)] for _ in range(2))
    for caches in (together, apart):
        for row, cache in enumerate(caches):
            step.forward(random_ids(3 + 7 * row, seed=row), cache)
    for turn in range(3):
        ids = random_ids(5, seed=50 + turn)
        alone = torch.cat([step.forward([token], cache) for token, cache in zip(ids, apart, strict=True)])
        assert torch.equal(step.forward_rows(ids, together), alone)
    for one, other in zip(together, apart, strict=True):
        assert_same_states(one, other, 0)


def test_a_burst_gives_the_tokens_and_states_of_single_steps(model: Transformer) -> None:
    packed = pack_model(copy.deepcopy(model), 4)
    step = CpuStep(packed, threads=2, library=load_library())
    burst, single = packed.new_cache(), packed.new_cache()
    for cache in (burst, single):
        step.forward(IDS[:20], cache)
    greedy = SamplingParams(temperature=0, top_k=0)
    request = SamplingRequest(greedy, [0.5] * 8, packed.config.vocab_size)
    tokens = step.forward_multi_step(5, burst, request)
    assert len(tokens) == 8
    token = 5
    for expected_token in tokens:
        token = int(step.forward([token], single)[-1].argmax())
        assert token == expected_token
    assert burst.length == single.length
    assert_same_states(burst, single, 0)


def test_tokens_of_one_text_are_not_computed_as_rows(with_states: Transformer) -> None:
    assert CpuStep(with_states, threads=1, library=load_library()).capabilities.most_each == 1


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_tokens_of_one_text_are_computed_as_rows(case: str) -> None:
    packed = pack_model(in_bfloat16(made(case)), 4)
    step = CpuStep(packed, threads=2, library=load_library())
    together, apart = fresh(packed), fresh(packed)
    for start, count in ((0, 1), (1, 9), (10, 16)):
        ids = IDS[start : start + count]
        alone = torch.cat([step.forward([token], apart) for token in ids])
        assert torch.equal(step.forward_each(ids, together), alone)
    together.truncate(20)
    apart.truncate(20)
    assert torch.equal(step.forward([1], together), step.forward([1], apart))


@pytest.mark.parametrize("case", ["qwen 3.5", "lfm 2", "lfm 3"])
def test_a_cache_in_8_bits(case: str) -> None:
    model = in_bfloat16(made(case))
    model.config = replace(model.config, int8_cache=True)
    step = CpuStep(model, threads=2, library=load_library())
    assert error(in_pieces(step, fresh(model), PIECES), expected(model).float()) < 0.03


@pytest.mark.parametrize("beside", [Mamba2Config(4, 4, 2, 4, 3), ShortConvConfig(3)])
def test_other_pairs_of_networks_are_refused(beside: Mamba2Config | ShortConvConfig) -> None:
    config = made("falcon h1").config
    mixer = beside if isinstance(beside, Mamba2Config) else None
    changed = replace(config, layers=(replace(config.layers[0], mixer=mixer, beside=beside), *config.layers[1:]))
    assert unsupported(config) is None
    assert "beside attention" in str(unsupported(changed))


def test_memory_of_states_is_used_again(with_states: Transformer) -> None:
    step, cache = CpuStep(with_states, threads=1, library=load_library()), fresh(with_states)
    step.forward(IDS[:20], cache)
    layer = next(index for index, kind in enumerate(with_states.config.layers) if kind.has_state)

    def address() -> int:
        state = cache.state(layer)
        assert state is not None and state.sum is not None
        return state.sum.data_ptr()

    addresses = []
    for token in IDS[20:30]:
        step.forward([token], cache)
        addresses.append(address())
    assert len(set(addresses)) == 2
    cache.mark()
    step.forward(IDS[30:32], cache)
    assert address() != addresses[-1]
    step.forward(IDS[32:34], cache)
    # That of the mark is not.
    assert address() != addresses[-1]


def test_memory_of_the_states_of_a_batch_is_used_again(with_states: Transformer) -> None:
    step, caches = CpuStep(with_states, threads=1, library=load_library()), [fresh(with_states) for _ in range(4)]
    layer = next(index for index, kind in enumerate(with_states.config.layers) if kind.has_state)
    addresses = set()
    for turn in range(8):
        step.forward_rows(random_ids(4, seed=turn), caches)
        states = [cache.state(layer) for cache in caches]
        addresses |= {state.sum.data_ptr() for state in states if state is not None and state.sum is not None}
    assert len(addresses) == 8


def test_a_call_that_fails_leaves_the_states(with_states: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    step, cache, other = CpuStep(with_states, threads=1, library=load_library()), fresh(with_states), fresh(with_states)
    step.forward(IDS[:20], cache)
    states = [cache.state(layer) for layer in range(len(cache.layers))]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(step, "_compute", interrupted)
        step.forward(IDS[20:25], cache)
    step.forward(IDS[:3], other)
    cache.begin(1)
    cache.advance(0)
    assert cache.length == 20
    assert all(cache.state(layer) is state for layer, state in enumerate(states))


def interrupted(*_arguments: object, **_options: object) -> torch.Tensor:
    raise KeyboardInterrupt


def test_weights_that_are_not_numbers_show_in_the_logits(with_states: Transformer) -> None:
    first = next(index for index, layer in enumerate(with_states.config.layers) if layer.has_state)
    names = [name for name, _ in with_states.layers[first].named_parameters() if not name.startswith("mlp.")]
    assert len(names) > 6
    for name in names:
        damaged = copy.deepcopy(with_states)
        damaged.layers[first].get_parameter(name).view(-1)[0] = torch.nan
        step = CpuStep(damaged, threads=1, library=load_library())
        for pieces in (1,) * 5, (5,):
            assert in_pieces(step, fresh(damaged), pieces)[-1].isnan().all(), name
