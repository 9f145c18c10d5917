from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import llmcli
from llmcli.errors import UsageError
from llmcli.hub.starter import fetch_starter, starter_path
from llmcli.inspection.core.ablation import without_heads, without_neurons
from llmcli.inspection.core.activations import trace
from llmcli.inspection.core.hooks import attention_of, blocks
from llmcli.inspection.core.neuron_values import firing, promotion
from llmcli.inspection.residual.logit_attribution import Direction, attribution, single_token
from llmcli.model.block import OutputNormBlock
from llmcli.model.feed_forward import FeedForward, PlainFeedForward
from llmcli.model.mixture_of_experts import MixtureOfExperts
from tests.support.models.inspected_families import FAMILIES, family
from tests.support.models.tiny import random_ids
from tests.support.models.tiny_checkpoints import tiny_checkpoint

IDS = random_ids(20)
TARGET = 65
TOKENS = 261  # the byte tokenizer's
# The scale of an output norm changes if a part is missing.
OUTPUT_NORMS = (
    "gemma 2",
    "gemma 3, linear on full layers",
    "olmo 2",
    "trinity",
    "hyperclovax",
    "a.x k1",
    "gemma 4, small",
    "gemma 4, experts",
)


@pytest.fixture(params=FAMILIES, scope="module")
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> llmcli.LoadedModel:
    return family(request.param, tmp_path_factory.mktemp("model"))[1]


def bias_of(network: torch.nn.Module, read: Tensor) -> Tensor:
    """What biases add to the output of a feed-forward network."""
    if isinstance(network, FeedForward | PlainFeedForward):
        bias = network.down_proj.bias
        return torch.zeros_like(read) if bias is None else bias
    assert isinstance(network, MixtureOfExperts)
    if network.experts.down_proj_bias is None:
        return torch.zeros_like(read)
    chosen, weights = network.gate(read[None])
    added: Tensor = (weights[0, :, None] * network.experts.down_proj_bias[chosen[0]]).sum(0)
    return added


@torch.inference_mode()
def test_the_parts_sum_to_the_logit_and_heads_and_neurons_to_their_parts(loaded: llmcli.LoadedModel) -> None:
    config, model = loaded.config, loaded.model
    traced = trace(model, IDS, [0, 7, 19], parts=True)
    for row, position in enumerate(traced.positions):
        found = attribution(loaded, traced, row, TARGET)
        total = found.mean_logit + found.embedding + found.bias
        total += sum(block.attention + block.feed_forward + block.per_layer for block in found.blocks)
        assert total == pytest.approx(found.logit, rel=1e-4, abs=1e-4)
        assert abs(found.rounding) < 1e-4
        theirs = loaded.logits(IDS)[position, :TOKENS]
        cap = config.logit_softcap
        assert found.softcap == cap
        shown = found.logit if cap is None else cap * torch.tensor(found.logit / cap).tanh().item()
        assert shown == pytest.approx(float(theirs[TARGET]), rel=1e-4, abs=1e-5)
        if cap is None:
            assert found.mean_logit == pytest.approx(float(theirs.mean()), rel=1e-4, abs=1e-5)
        direction = Direction(loaded, traced, row, TARGET)
        heads = direction.heads().sum(1)
        for block, part in enumerate(found.blocks):
            bias = attention_of(model, block).o_proj.bias
            rest = 0.0 if bias is None else float(direction.of(bias, block))
            assert float(heads[block]) + rest == pytest.approx(part.attention, rel=1e-4, abs=1e-5)
            neurons = sum(float(logits.sum()) for _, logits in direction.neurons(block))
            rest = float(direction.of(bias_of(blocks(model)[block].mlp, traced.feed_forward_inputs[block, row]), block))
            assert neurons + rest == pytest.approx(part.feed_forward, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("loaded", [name for name in FAMILIES if name not in OUTPUT_NORMS], indirect=True)
@torch.inference_mode()
def test_ablating_a_last_block_head_or_neuron_removes_its_contribution(
    loaded: llmcli.LoadedModel,
) -> None:
    model, last = loaded.model, loaded.config.num_layers - 1
    place = blocks(model)[last]
    traced = trace(model, IDS, [19], parts=True)
    direction = Direction(loaded, traced, 0, TARGET)
    for head in range(loaded.config.num_heads):
        with without_heads(model, [(last, head)]):
            lost = traced.added["attention"][last] - trace(model, IDS, [19], parts=True).added["attention"][last]
        assert float(direction.heads()[last, head]) == pytest.approx(float(direction.of(lost)), rel=1e-3, abs=1e-5)
    if isinstance(place.mlp, MixtureOfExperts):
        return
    ((fired, logits),) = direction.neurons(last)
    for neuron in (0, 5, len(logits) - 1):
        with without_neurons(model, [(last, neuron)]):
            lost = traced.residuals[-1] - trace(model, IDS, [19]).residuals[-1]
        assert float(logits[neuron]) == pytest.approx(float(direction.of(lost)), rel=1e-3, abs=1e-5)
        written = fired.activations[neuron] * fired.down[:, neuron] * loaded.config.residual_scale
        assert torch.allclose(written, lost[0], rtol=1e-3, atol=1e-5)


@torch.inference_mode()
def test_the_largest_absolute_contributions_come_first(loaded: llmcli.LoadedModel) -> None:
    traced = trace(loaded.model, IDS, [19], parts=True)
    direction = Direction(loaded, traced, 0, TARGET)
    found = attribution(loaded, traced, 0, TARGET, strongest=4, top=3)
    all_heads = direction.heads()
    assert [abs(head.logit) for head in found.heads] == all_heads.abs().flatten().topk(4).values.tolist()
    assert all(head.logit == float(all_heads[head.block, head.head]) for head in found.heads)
    every = {
        (block, fired.expert, neuron): (logit, activation)
        for block in range(loaded.config.num_layers)
        for fired, logits in direction.neurons(block)
        for neuron, (logit, activation) in enumerate(zip(logits.tolist(), fired.activations.tolist(), strict=True))
    }
    strongest = sorted((abs(logit) for logit, _ in every.values()), reverse=True)[:4]
    assert [abs(neuron.logit) for neuron in found.neurons] == strongest
    for neuron in found.neurons:
        assert every[neuron.block, neuron.expert, neuron.neuron] == (neuron.logit, neuron.activation)
        assert len(neuron.promotes) == len(neuron.suppresses) == 3


@pytest.mark.parametrize("loaded", ["llama 2, grouped", "gemma 2", "olmo 2", "granite", "mixtral"], indirect=True)
@torch.inference_mode()
def test_promoted_tokens_are_those_of_the_vector_alone(loaded: llmcli.LoadedModel) -> None:
    vector = torch.randn(32, generator=torch.Generator().manual_seed(3))
    place = blocks(loaded.model)[1]
    written = place.mlp_output_norm(vector) if isinstance(place, OutputNormBlock) else vector
    logits = loaded.model.unembed(written)[:TOKENS]
    found = promotion(loaded, 1, vector, 4)
    assert [token.id for token in found.promotes] == logits.topk(4).indices.tolist()
    assert [token.id for token in found.suppresses] == (-logits).topk(4).indices.tolist()
    assert promotion(loaded, 1, -vector, 4).promotes == found.suppresses


@pytest.mark.parametrize("loaded", ["qwen2-moe", "deepseek v3", "gpt-oss", "llama 4"], indirect=True)
@torch.inference_mode()
def test_expert_neurons_fire_as_routed(loaded: llmcli.LoadedModel) -> None:
    traced = trace(loaded.model, IDS, [19], parts=True)
    for block, place in enumerate(blocks(loaded.model)):
        if not isinstance(place.mlp, MixtureOfExperts):
            continue
        read = traced.feed_forward_inputs[block, 0]
        fired = firing(place.mlp, read)
        routed = [part for part in fired if isinstance(part.expert, int)]
        assert [part.expert for part in routed] == place.mlp.gate(read[None])[0][0].tolist()
        assert ("shared" in [part.expert for part in fired]) == (place.mlp.shared_expert is not None)
        written = sum((part.weight * part.down @ part.activations for part in fired), torch.zeros(32))
        whole = place.mlp(read[None, None])[0, 0] - bias_of(place.mlp, read)
        assert torch.allclose(written, whole, rtol=1e-4, atol=1e-6)


def test_rounding_in_bfloat16_is_reported_separately(tmp_path: Path) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path, "llama"), dtype="bfloat16", device="cpu")
    found = attribution(loaded, trace(loaded.model, IDS, [19], parts=True), 0, TARGET)
    parts = found.mean_logit + found.embedding + sum(block.attention + block.feed_forward for block in found.blocks)
    assert parts + found.rounding == pytest.approx(found.logit, abs=1e-5)
    assert 1e-5 < abs(found.rounding) < 0.05
    assert found.logit == pytest.approx(float(loaded.logits(IDS)[-1, TARGET]), abs=0.02)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> llmcli.LoadedModel:
    return llmcli.load(tiny_checkpoint(tmp_path_factory.mktemp("small"), "llama"))


@pytest.mark.parametrize(("text", "token"), [("a", b"a"), (" ", b" "), ("\n", b"\n"), ("<|end|>", b"<|end|>")])
def test_a_target_is_one_token(small: llmcli.LoadedModel, text: str, token: bytes) -> None:
    assert small.tokenizer.token_bytes(single_token(small.tokenizer, text)) == token


@pytest.mark.parametrize(("text", "complaint"), [("ab", "2 tokens .'a', 'b'."), ("", "empty"), ("<|end", "5 tokens")])
def test_other_targets_are_refused_with_their_pieces(small: llmcli.LoadedModel, text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        single_token(small.tokenizer, text)


@pytest.mark.starter
def test_on_the_starter_the_capital_of_france_has_its_known_attribution() -> None:
    loaded = llmcli.load(starter_path() or fetch_starter(), dtype="float32", device="cpu")
    ids = [1, *loaded.tokenizer.encode("The capital of France is")]
    paris = single_token(loaded.tokenizer, " Paris")
    found = attribution(loaded, trace(loaded.model, ids, [5], parts=True), 0, paris, strongest=5)
    assert found.logit - found.mean_logit == pytest.approx(19.05, abs=0.1)
    assert found.blocks[23].attention == pytest.approx(3.64, abs=0.05)
    assert found.blocks[24].feed_forward == pytest.approx(2.19, abs=0.05)
    assert (found.heads[0].block, found.heads[0].head) == (23, 4)
    assert found.heads[0].logit == pytest.approx(2.47, abs=0.05)
    neuron = next(neuron for neuron in found.neurons if (neuron.block, neuron.neuron) == (24, 1005))
    assert neuron.activation == pytest.approx(-22.4, abs=0.5)
    assert neuron.promotes[0].text == " capitals"
