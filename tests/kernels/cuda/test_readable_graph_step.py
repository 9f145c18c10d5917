"""The captured pass of the readable model gives the model's logits; without a GPU it runs without a capture."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch

from llmcli.kernels.base import NoKernelError
from llmcli.kernels.cuda.readable_graph_step import GraphStep
from llmcli.model import KVCache, Transformer
from llmcli.model.quantized.matrix import PackedMatrix
from tests.support.models.parity_cases import CASES
from tests.support.models.random_models import pack_model, random_model
from tests.support.models.tiny import random_ids

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
IDS = random_ids(40)
NAMES = (
    "deepseek v3", "deepseek v2, groups, yarn", "gpt-oss", "gemma 2", "llama 4", "gpt-2", "mixtral, window",
    "phi-3, longrope, long", "gemma 4, small", "gemma 4, experts", "gemma 3n",
)  # fmt: skip


def made(name: str) -> Transformer:
    model_type, overrides = CASES[name]
    return random_model(model_type, **overrides).to(DEVICE)


def fresh(model: Transformer) -> KVCache:
    cache = model.new_cache(capacity=4)
    cache.expected_length = len(IDS)
    return cache


@torch.inference_mode()
def expected(model: Transformer, ids: list[int] = IDS) -> torch.Tensor:
    logits: torch.Tensor = model(torch.tensor([ids], device=DEVICE), fresh(model))[0]
    return logits.float()


def without_pinning(make: Callable[..., torch.Tensor], *arguments: Any, **options: Any) -> torch.Tensor:
    """Ignore `pin_memory`, which needs a GPU."""
    return make(*arguments, **{**options, "pin_memory": torch.cuda.is_available() and options.get("pin_memory", False)})


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("name", NAMES)
def test_logits_at_every_position(name: str) -> None:
    model = made(name)
    step, cache = GraphStep(model, "a reason"), fresh(model)
    # Uninitialized memory may contain anything.
    for segment in cache.layers:
        segment.keys.fill_(torch.nan)
        segment.values.fill_(torch.nan)
    parts = [step.forward(IDS[:5], cache, only_last=False)]
    parts += [step.forward([token], cache) for token in IDS[5:]]
    assert error(torch.cat(parts), expected(model)) < 5e-6
    assert step.name == "readable model in a CUDA graph, float32 (a reason)"


@pytest.mark.parametrize("name", [*NAMES, "packed"])
def test_the_pass_reads_no_value_on_the_host(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tensors on `meta` have no values: an operation that reads one, and would wait for a GPU, fails.
    model = made("gpt-2" if name == "packed" else name).cpu()
    model = (pack_model(model, 4) if name == "packed" else model).to("meta")
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    step, cache = GraphStep(model, ""), model.new_cache()
    with torch.inference_mode():
        cache.begin(5)
        cache.advance(5)
    token = torch.zeros(1, dtype=torch.int64, device="meta")
    assert step.forward_device_token(token, cache).shape == (1, model.config.vocab_size)


def test_two_caches_and_a_truncated_text() -> None:
    model = made("mistral, window shorter than the text")
    step, caches = GraphStep(model, ""), [fresh(model), fresh(model)]
    texts = IDS, IDS[::-1]
    for turn in range(6):
        for text, cache in zip(texts, caches, strict=True):
            if turn == 3:
                cache.truncate(1)
            ours = step.forward([text[cache.length]], cache)
            assert error(ours, expected(model, text[: cache.length])[-1:]) < 5e-6


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The graphs captured by steps on a pretended GPU."""

    class Graph:
        """A fake graph: capturing runs the launch, replaying runs it again."""

        def __init__(self, step: GraphStep, cache: KVCache) -> None:
            graphs.append(self)
            self.replay = lambda: setattr(step, "_logits", step._pass(cache))

    graphs: list[object] = []
    monkeypatch.setattr(GraphStep, "_capture", lambda step, cache: Graph(step, cache))
    monkeypatch.setattr("torch.cuda.device", lambda _device: nullcontext())
    monkeypatch.setattr("torch.tensor", partial(without_pinning, torch.tensor))
    return graphs


def test_a_graph_serves_the_next_text_in_the_same_memory(captured: list[object]) -> None:
    model = made("gpt-2")
    step, cache = GraphStep(model, ""), model.new_cache(capacity=8)
    step._captures = True
    for text, graphs in ((IDS[:6], 1), (IDS[6:12], 1), (IDS[:12], 2)):
        cache.truncate(0)
        ours = torch.cat([step.forward([token], cache) for token in text])
        assert error(ours, expected(model, text)) < 5e-6
        assert len(captured) == graphs


def test_no_graph_is_captured_while_an_unpacker_compiles(captured: list[object]) -> None:
    class Awaited:
        def ready(self, _matrix: PackedMatrix, _dtype: torch.dtype) -> bool:
            return False

        def pending(self, matrix: PackedMatrix, _dtype: torch.dtype) -> bool:
            return matrix in pending

        def unpack(self, _matrix: PackedMatrix, _index: int, _first: int, _into: torch.Tensor) -> None:
            raise AssertionError("it is not ready")

    model = pack_model(made("gpt-2").cpu(), 4).to(DEVICE)
    matrices = [module for module in model.modules() if isinstance(module, PackedMatrix)]
    pending = {matrices[-1]}
    for matrix in matrices:
        matrix.unpacker = Awaited()
    step, cache = GraphStep(model, ""), model.new_cache(capacity=8)
    step._captures = True
    ours = [step.forward([token], cache) for token in IDS[:3]]
    assert not captured
    pending.clear()
    ours += [step.forward([token], cache) for token in IDS[3:5]]
    assert len(captured) == 1
    assert error(torch.cat(ours), expected(model, IDS[:5])) < 5e-6


def test_logits_with_packed_weights() -> None:
    model = pack_model(made("gemma 2").cpu(), 4).to(DEVICE)
    step, cache = GraphStep(model, ""), fresh(model)
    ours = torch.cat([step.forward([token], cache) for token in IDS[:10]])
    assert error(ours, expected(model, IDS[:10])) < 5e-6
    experts = pack_model(made("mixtral").cpu(), 4)
    with pytest.raises(NoKernelError, match="packed experts"):
        GraphStep(experts, "")
