"""Hooked tensors, compared with those that `transformers` reports, family by family."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import llmcli
from llmcli.inspection.core.activations import passes
from llmcli.inspection.core.hooks import (
    AttentionCall,
    Part,
    blocks,
    on_added,
    on_attention,
    on_feed_forward,
    on_heads,
    on_residual,
    on_router,
)
from llmcli.model import Transformer
from llmcli.model.attention.latent_attention import LatentAttention
from tests.support.models.parity_cases import CASES
from tests.support.models.tiny import random_ids, save, tiny_model

FAMILIES = [
    "llama 2, grouped", "llama, biases, wide heads", "mistral, window shorter than the text", "qwen3", "gemma 2",
    "gemma 3, linear on full layers", "phi-2", "smollm 3, layers without positions", "olmo 2", "granite",
    "stablelm, parallel, normed heads", "cohere", "cohere 2", "gpt-2", "pythia, parallel", "starcoder 2, window",
    "glm 4", "mixtral", "qwen2-moe", "deepseek v3", "gpt-oss", "llama 4",
]  # fmt: skip
IDS = random_ids(24)
# Tolerance of float32 over a few blocks, relative to the largest value.
ROUNDING = 2e-5


@pytest.fixture(params=FAMILIES, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Transformer]:
    model_type, overrides = CASES[request.param]
    model = tiny_model(model_type, **overrides)
    return model, llmcli.load(save(model, tmp_path_factory.mktemp("model")), dtype="float32", device="cpu").model


@pytest.fixture
def ours(pair: tuple[Any, Transformer]) -> Transformer:
    return pair[1]


@pytest.fixture(scope="module")
def theirs(pair: tuple[Any, Transformer]) -> Any:
    with torch.inference_mode():
        return pair[0](torch.tensor([IDS]), output_hidden_states=True, output_attentions=True)


@torch.inference_mode()
def logits(model: Transformer) -> Tensor:
    found: Tensor = model(torch.tensor([IDS]))
    return found


def close(ours: Tensor, theirs: Tensor) -> bool:
    return ours.shape == theirs.shape and float((ours - theirs).abs().max() / theirs.abs().max()) < ROUNDING


def residuals(model: Transformer) -> list[Tensor]:
    seen: dict[int, Tensor] = {}
    with on_residual(model, seen.__setitem__):
        logits(model)
    assert list(seen) == list(range(model.config.num_layers + 1))
    return list(seen.values())


def test_the_residual_stream_is_the_reference_s(ours: Transformer, theirs: Any) -> None:
    stream = residuals(ours)
    with torch.inference_mode():
        # The reference's last state is after the final norm.
        stream[-1] = ours.norm(stream[-1])
    assert len(stream) == len(theirs.hidden_states)
    assert all(close(mine, other) for mine, other in zip(stream, theirs.hidden_states, strict=True))


def test_attention_patterns_are_the_reference_s(ours: Transformer, theirs: Any) -> None:
    seen: list[Tensor] = []
    with on_attention(ours, lambda call: seen.append(call.weights())):
        logits(ours)
    assert len(seen) == len(theirs.attentions)
    for mine, other in zip(seen, theirs.attentions, strict=True):
        assert torch.allclose(mine, other, atol=1e-5)
        assert not mine.triu(1).any()


def test_rows_of_a_pattern_are_the_pattern_s_rows(ours: Transformer) -> None:
    calls: list[AttentionCall] = []
    with on_attention(ours, calls.append):
        logits(ours)
    for call in calls:
        assert torch.allclose(call.weights(5, 11), call.weights()[:, :, 5:11], atol=1e-6)
        assert torch.allclose(call.weights(23), call.weights()[:, :, 23:], atol=1e-6)


def test_patterns_of_a_chunked_text_are_parts_of_the_whole(
    ours: Transformer, theirs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmcli.kernels.readable_step.ReadableStep.prefill_chunk", 5)
    stop = 0

    def see(call: AttentionCall) -> None:
        whole = theirs.attentions[call.block][:, :, stop - call.new : stop]
        assert torch.allclose(call.weights(), whole[..., stop - call.seen : stop], atol=1e-5)
        # Earlier tokens are outside the window.
        assert not whole[..., : stop - call.seen].any()

    with on_attention(ours, see):
        for _, stop in passes(ours, IDS):  # noqa: B007 (read by the hook)
            pass


def test_head_outputs_are_values_mixed_by_the_pattern(ours: Transformer) -> None:
    mixed: dict[int, Tensor] = {}
    calls: list[AttentionCall] = []
    with on_heads(ours, mixed.__setitem__), on_attention(ours, calls.append):
        logits(ours)
    with torch.inference_mode():
        for call in calls:
            if isinstance(call.attention, LatentAttention):
                values = call.v @ call.attention.value_weight.transpose(1, 2)
            else:
                values = call.v.repeat_interleave(call.q.shape[1] // call.v.shape[1], dim=1)
            assert close((call.weights() @ values).transpose(1, 2), mixed[call.block])


def test_embedding_and_added_parts_sum_to_the_last_residual(ours: Transformer) -> None:
    added: dict[tuple[int, Part], Tensor] = {}
    with on_added(ours, lambda block, part, x: added.__setitem__((block, part), x)):
        stream = residuals(ours)
    assert len(added) == 2 * ours.config.num_layers
    for block, (before, after) in enumerate(pairwise(stream)):
        assert close(before + added[block, "attention"] + added[block, "feed_forward"], after)
    assert close(sum(added.values(), stream[0]), stream[-1])


def test_the_feed_forward_hook_gets_the_network_s_input(ours: Transformer) -> None:
    inputs: dict[int, Tensor] = {}
    outputs: dict[int, Tensor] = {}
    hooks = [
        block.mlp.register_forward_hook(lambda _module, _inputs, output, index=index: outputs.update({index: output}))
        for index, block in enumerate(blocks(ours))
    ]
    with on_feed_forward(ours, inputs.__setitem__):
        logits(ours)
    for hook in hooks:
        hook.remove()
    with torch.inference_mode():
        for index, block in enumerate(blocks(ours)):
            assert torch.equal(block.mlp(inputs[index]), outputs[index])


def test_the_router_hook_gets_routers_of_mixtures_only(ours: Transformer) -> None:
    seen: dict[int, tuple[Tensor, ...]] = {}
    with on_router(ours, lambda block, *values: seen.__setitem__(block, values)):
        logits(ours)
    mixtures = {index: layer.experts for index, layer in enumerate(ours.config.layers) if layer.experts is not None}
    assert list(seen) == list(mixtures)
    for block, (x, chosen, weights) in seen.items():
        experts = mixtures[block]
        assert x.shape == (len(IDS), ours.config.hidden_size)
        assert chosen.shape == weights.shape == (len(IDS), experts.chosen)
        assert all(len(set(row)) == experts.chosen and max(row) < experts.count for row in chosen.tolist())


def test_the_attention_hook_can_be_limited_to_blocks(ours: Transformer) -> None:
    seen: list[int] = []
    with on_attention(ours, lambda call: seen.append(call.block), only=[2, 0]):
        logits(ours)
    assert seen == [0, 2]


def test_hooks_leave_nothing_behind(ours: Transformer) -> None:
    before = logits(ours)

    def fail(*_values: object) -> None:
        raise ValueError("seen")

    for look in (on_residual, on_added, on_attention, on_heads, on_feed_forward):
        with pytest.raises(ValueError, match="seen"), look(ours, fail):
            logits(ours)
        with look(ours, lambda *_values: None):
            assert torch.equal(logits(ours), before)
    assert not [module for module in ours.modules() if module._forward_hooks or module._forward_pre_hooks]
    assert torch.equal(logits(ours), before)
