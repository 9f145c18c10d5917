from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import llmcli
from llmcli.errors import PromptTooLongError, UsageError
from llmcli.inspection.feed_forward.moe_routing import expert_routing
from tests.support.models.parity_cases import CASES
from tests.support.models.tiny import VOCABULARY, random_ids, save, tiny_model
from tests.support.models.tiny_checkpoints import tiny_checkpoint

IDS = random_ids(40)
_HIDDEN = 264


@pytest.fixture(scope="module")
def wired(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, llmcli.LoadedModel]:
    """A Mixtral whose router sends token t to expert t mod 4 with logit ln 3, to the next with 0, elsewhere never."""
    model = tiny_model("mixtral", num_local_experts=4, hidden_size=_HIDDEN)
    state = model.state_dict()
    tokens = torch.arange(VOCABULARY)
    for name, values in state.items():
        if "norm" in name:
            values.fill_(1.0)
        elif name.endswith("gate.weight"):
            values.fill_(-50.0)
            values[tokens % 4, tokens] = math.log(3) / math.sqrt(_HIDDEN)
            values[(tokens + 1) % 4, tokens] = 0.0
        else:
            values.fill_(0.0)
    # One-hot; the norm makes each sqrt(C) long.
    state["model.embed_tokens.weight"][tokens, tokens] = 1.0
    model.load_state_dict(state)
    return model, llmcli.load(save(model, tmp_path_factory.mktemp("wired")), dtype="float32", device="cpu")


def test_routing_follows_the_router_weights(wired: tuple[Any, llmcli.LoadedModel]) -> None:
    model, loaded = wired
    ids = [0, 1, 2, 3, 5, 10, 15, 20]
    result = expert_routing(loaded, ids)
    assert ([token.id for token in result.tokens], result.dense) == (ids, ())
    with torch.inference_mode():
        logits = model(torch.tensor([ids]), output_router_logits=True).router_logits
    for layer, router in zip(result.layers, logits, strict=True):
        assert (layer.experts, layer.chosen) == (4, 2)
        assert [[item.expert for item in row] for row in layer.routing] == [[t % 4, (t + 1) % 4] for t in ids]
        weights = torch.tensor([[item.weight for item in row] for row in layer.routing])
        # The norm's epsilon makes 3:1 a little less.
        torch.testing.assert_close(weights, torch.tensor([[0.75, 0.25]] * len(ids)), atol=1e-3, rtol=0)
        best = router.softmax(-1).topk(2).values
        torch.testing.assert_close(weights, best / best.sum(-1, keepdim=True))
        assert layer.load == (0.25,) * 4
        assert layer.entropy_share == pytest.approx(1)


def test_entropy_measures_how_evenly_experts_are_used(wired: tuple[Any, llmcli.LoadedModel]) -> None:
    layer = expert_routing(wired[1], [4, 8, 12]).layers[0]
    assert layer.load == (0.5, 0.5, 0.0, 0.0)
    assert (layer.entropy, layer.entropy_share) == pytest.approx((math.log(2), 0.5))
    layer = expert_routing(wired[1], [4, 5]).layers[0]
    assert layer.load == (0.25, 0.5, 0.25, 0.0)
    assert layer.entropy == pytest.approx(1.5 * math.log(2))


def theirs(model: Any, ids: list[int]) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """By block, the reference's expert weights and indices, in its order."""
    seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for name, module in model.named_modules():
        if type(module).__name__.lower().endswith("topkrouter"):
            block = int(name.split(".")[2])

            def keep(_module: Any, _inputs: Any, output: Any, block: int = block) -> None:
                seen[block] = output[1:]

            module.register_forward_hook(keep)
    with torch.inference_mode():
        model(torch.tensor([ids]))
    return seen


@pytest.mark.parametrize(
    ("case", "dense"),
    [
        ("mixtral", ()),
        ("qwen2-moe", ()),
        ("qwen3-moe", (1,)),
        ("olmoe", ()),
        ("granite, shared expert", ()),
        ("deepseek v2, groups, yarn", (0,)),
        ("deepseek v3", (0,)),
        ("gpt-oss", ()),
    ],
)
def test_routing_equals_the_reference(
    case: str, dense: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Several passes a text.
    monkeypatch.setattr("llmcli.kernels.readable_step.ReadableStep.prefill_chunk", 11)
    model_type, overrides = CASES[case]
    model = tiny_model(model_type, **overrides)
    loaded = llmcli.load(save(model, tmp_path / "m"), dtype="float32", device="cpu")
    result = expert_routing(loaded, IDS)
    expected = theirs(model, IDS)
    assert result.dense == dense
    assert [layer.layer for layer in result.layers] == sorted(expected) == sorted({0, 1, 2} - set(dense))
    for layer in result.layers:
        weights, chosen = expected[layer.layer]
        for row, row_weights, experts in zip(layer.routing, weights, chosen, strict=True):
            assert {item.expert: item.weight for item in row} == pytest.approx(
                dict(zip(experts.tolist(), row_weights.tolist(), strict=True)), rel=1e-3
            )
            assert [item.weight for item in row] == sorted((item.weight for item in row), reverse=True)
        slots = [item.expert for row in layer.routing for item in row]
        assert layer.load == pytest.approx([slots.count(expert) / len(slots) for expert in range(layer.experts)])
        assert 0 <= layer.entropy_share <= 1
    last = result.layers[-1]
    assert expert_routing(loaded, IDS, only=last.layer).layers == (last,)


def test_models_without_routing_are_refused(tmp_path: Path) -> None:
    dense = llmcli.load(tiny_checkpoint(tmp_path / "dense", "llama"), dtype="float32")
    with pytest.raises(UsageError, match="dense model"):
        expert_routing(dense, IDS)
    model_type, overrides = CASES["deepseek v3"]
    mixed = llmcli.load(tiny_checkpoint(tmp_path / "mixed", model_type, **overrides), dtype="float32")
    with pytest.raises(UsageError, match=r"Block 0 is dense.* first block that has them is 1"):
        expert_routing(mixed, IDS, only=0)
    for block in (-1, 3):
        with pytest.raises(UsageError, match="no block"):
            expert_routing(mixed, IDS, only=block)
    with pytest.raises(UsageError, match="empty"):
        expert_routing(mixed, [])
    with pytest.raises(PromptTooLongError):
        expert_routing(mixed, IDS * 4)


def test_hooks_are_removed_afterwards(wired: tuple[Any, llmcli.LoadedModel]) -> None:
    seen: list[tuple[int, int]] = []
    expert_routing(wired[1], IDS, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (40, 40)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in wired[1].model.modules())
