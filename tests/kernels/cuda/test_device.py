"""Tests that need a GPU: waiting for the device, overlapping launches, memory that is not freed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from llmcli.engine import SamplingParams
from llmcli.kernels.cuda.sampler import DeviceChoice
from llmcli.kernels.select import slower_step
from llmcli.model import KVCache, Transformer
from tests.support.kernels.triton_device import DEVICE
from tests.support.models.random_models import random_model

from llmcli.kernels.cuda.step import CudaStep  # isort: skip

pytestmark = [
    pytest.mark.cuda, pytest.mark.skipif(DEVICE.type != "cuda", reason="there is no CUDA device")
]  # fmt: skip
SIZES = {
    "vocab_size": 32000, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6,
    "max_position_embeddings": 4096,
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Transformer:
    return random_model("llama", **SIZES).to(torch.bfloat16).to(DEVICE)


def begun(model: Transformer, length: int = 600) -> KVCache:
    cache = model.new_cache()
    with torch.inference_mode():
        cache.reserve(length)
        model(torch.arange(30, device=DEVICE)[None], cache)
    return cache


@contextmanager
def nothing_waits() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "params",
    [SamplingParams(temperature=0), SamplingParams(repeat_penalty=1.2), SamplingParams(temperature=1.0, top_k=0)],
)
def test_decoding_never_waits_for_a_token_and_frees_its_memory(model: Transformer, params: SamplingParams) -> None:
    step, cache = CudaStep(model, slower_step), begun(model)
    choice = DeviceChoice(SIZES["vocab_size"], torch.device("cuda:0"))

    def draw() -> None:
        choice.choose(step.forward_device_token(choice.token, cache)[0], 0.3)

    with torch.inference_mode():
        choice.begin(params, [1, 2, 3])
        for _ in range(3):
            draw()
        assert "CUDA graph" in step.name and all(graph is not None for graph in choice._graphs.values())
        held = torch.cuda.memory_allocated()
        with nothing_waits():
            for _ in range(300):
                draw()
        assert all(0 <= choice.chosen() < SIZES["vocab_size"] for _ in range(303))
    assert torch.cuda.memory_allocated() == held


def test_overlapping_launches_give_the_same_logits(model: Transformer) -> None:
    steps = [CudaStep(model, slower_step), CudaStep(model, slower_step)]
    steps[1]._pdl = False
    steps[1]._plans.clear()
    for several in (1, 4, 8, 16):
        ids = list(range(100, 100 + several))
        for _ in range(20):
            caches = [begun(model), begun(model)]
            ours, theirs = (
                step.forward(ids, cache, only_last=False) for step, cache in zip(steps, caches, strict=True)
            )
            assert torch.equal(ours, theirs)
            for one, other in zip(caches[0].layers, caches[1].layers, strict=True):
                assert torch.equal(one.keys[:, :, : 30 + several], other.keys[:, :, : 30 + several])


def test_a_model_on_another_device_than_the_current_one(model: Transformer) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one CUDA device")
    here, there = model, random_model("llama", **SIZES).to(torch.bfloat16).to("cuda:1")
    for one in (here, there):
        step, cache = CudaStep(one, slower_step), one.new_cache()
        step.forward([1, 2, 3], cache)
        ours = [step.forward([token], cache) for token in (4, 5, 6)]
        with torch.inference_mode():
            theirs = one(torch.tensor([[1, 2, 3, 4, 5, 6]], device=one.device))[0, 3:].float()
        assert "CUDA graph" in step.name
        assert float((torch.cat(ours) - theirs).norm() / theirs.norm()) < 0.02
    assert torch.cuda.current_device() == 0
