"""Ablations by hooks, compared with reference models with changed weights or masks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import llmcli
from llmcli.errors import UsageError
from llmcli.inspection.core.ablation import logprobs_from, without_heads, without_keys, without_neurons
from llmcli.inspection.core.hooks import Part
from llmcli.model import Transformer
from tests.support.models.parity_cases import CASES
from tests.support.models.tiny import random_ids, save, tiny_model
from tests.support.models.tiny_checkpoints import tiny_checkpoint

IDS = random_ids(40)
ROUNDING = 2e-5

# For each family: its blocks, and the output matrices of attention and of a dense feed-forward network.
LLAMA = ("model.layers", "self_attn.o_proj", "mlp.down_proj")
FAMILIES = {
    "llama, biases, wide heads": LLAMA,
    "mistral, window shorter than the text": LLAMA,
    "gemma 2": LLAMA,
    "olmo 2": LLAMA,
    "granite": LLAMA,
    "cohere": LLAMA,
    "phi-2": ("model.layers", "self_attn.dense", "mlp.fc2"),
    "pythia, parallel": ("gpt_neox.layers", "attention.dense", "mlp.dense_4h_to_h"),
    "deepseek v3": LLAMA,
    "gpt-oss": LLAMA,
    "mixtral": LLAMA,
}


@pytest.fixture(params=FAMILIES, scope="module")
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def pair(family: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Transformer]:
    model_type, overrides = CASES[family]
    model = tiny_model(model_type, **overrides)
    return model, llmcli.load(save(model, tmp_path_factory.mktemp("model")), dtype="float32", device="cpu").model


@torch.inference_mode()
def logits(model: Transformer) -> Tensor:
    found: Tensor = model(torch.tensor([IDS]))[0]
    return found


@torch.inference_mode()
def reference(model: Any, **options: Any) -> Tensor:
    found: Tensor = model(torch.tensor([IDS]), **options).logits[0]
    return found


def error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def writer(model: Any, family: str, block: int, part: Part) -> Any:
    """The module by which a part of a block writes."""
    layers, attention, feed_forward = FAMILIES[family]
    return model.get_submodule(f"{layers}.{block}.{attention if part == 'attention' else feed_forward}")


def test_ablated_heads_write_nothing(pair: tuple[Any, Transformer], family: str) -> None:
    model, ours = copy.deepcopy(pair[0]), pair[1]
    off = [(0, 1), (2, 3), (0, 2)]
    for block, head in off:
        weight = writer(model, family, block, "attention").weight
        size = weight.shape[1] // ours.config.num_heads
        with torch.no_grad():
            weight[:, head * size : (head + 1) * size] = 0
    before = logits(ours)
    with without_heads(ours, off):
        ablated = logits(ours)
    assert error(ablated, reference(model)) < ROUNDING < error(ablated, before)
    assert torch.equal(logits(ours), before)


def test_ablated_neurons_write_nothing(pair: tuple[Any, Transformer], family: str) -> None:
    model, ours = copy.deepcopy(pair[0]), pair[1]
    off = [(0, 7), (0, 20), (1, 7)]
    if any(ours.config.layers[block].experts for block, _ in off):
        with pytest.raises(UsageError, match="mixture of experts"), without_neurons(ours, off):
            pass
    else:
        for block, neuron in off:
            with torch.no_grad():
                writer(model, family, block, "feed_forward").weight[:, neuron] = 0
        before = logits(ours)
        with without_neurons(ours, off):
            ablated = logits(ours)
        assert error(ablated, reference(model)) < ROUNDING < error(ablated, before)
    # An error half-way removes the hooks already added.
    assert not [module for module in ours.modules() if module._forward_hooks or module._forward_pre_hooks]


def additive(hidden: list[int], window: int | None) -> Tensor:
    """A mask as the reference takes it: (1, 1, T, T), added to the scores."""
    visible = torch.ones(len(IDS), len(IDS), dtype=torch.bool).tril()
    if window is not None:
        visible = visible.triu(1 - window)
    visible[:, hidden] = False
    visible[hidden, hidden] = True
    return torch.where(visible, 0.0, torch.finfo(torch.float32).min)[None, None]


def test_hidden_keys_are_visible_only_to_themselves(pair: tuple[Any, Transformer], family: str) -> None:
    model, ours = pair
    hidden = [3, 4, 17, 38]
    masks = {window: additive(hidden, window) for window in {layer.window for layer in ours.config.layers}}
    named = {"full_attention" if window is None else "sliding_attention": mask for window, mask in masks.items()}
    with without_keys(ours, hidden):
        found = logits(ours)
    theirs = reference(model, attention_mask=named if len(named) > 1 else next(iter(named.values())))
    assert error(found, theirs) < ROUNDING
    before = logits(ours)
    # Everything up to and including the first hidden token is unchanged.
    assert error(found[:4], before[:4]) < ROUNDING < error(found[4:], before[4:])


def test_nothing_hidden_changes_nothing(pair: tuple[Any, Transformer]) -> None:
    with without_keys(pair[1], []):
        found = logits(pair[1])
    assert error(found, logits(pair[1])) < ROUNDING


def test_hiding_tokens_outside_all_windows_changes_nothing(tmp_path: Path) -> None:
    window, blocks = 7, 3
    model = llmcli.load(tiny_checkpoint(tmp_path, "mistral", sliding_window=window), dtype="float32").model
    hidden, before = [2, 3], logits(model)
    with without_keys(model, hidden):
        found = logits(model)
    # With each block, information travels one window further.
    reached = max(hidden) + blocks * (window - 1)
    assert error(found[reached + 1 :], before[reached + 1 :]) < ROUNDING < error(found[:reached], before[:reached])


def test_keys_cannot_be_hidden_from_a_cached_pass(tmp_path: Path) -> None:
    model = llmcli.load(tiny_checkpoint(tmp_path, "llama"), dtype="float32").model
    with torch.inference_mode(), without_keys(model, [1]):
        cache = model.new_cache()
        model(torch.tensor([IDS]), cache)
        with pytest.raises(ValueError, match="whole text"):
            model(torch.tensor([[5]]), cache)


@pytest.mark.parametrize(("first", "rows"), [(1, 5), (39, 1)])
def test_logprobs_equal_the_logits_of_one_pass(pair: tuple[Any, Transformer], first: int, rows: int) -> None:
    batch = torch.tensor([IDS, random_ids(40, seed=9)])
    found = list(logprobs_from(pair[1], batch, first, 256, rows_at_once=rows))
    assert all(len(part) * part.shape[1] <= max(rows, 2) for part in found)
    with torch.inference_mode():
        expected = pair[1](batch)[:, first - 1 : -1, :256].log_softmax(-1)
    assert torch.cat(found, dim=1).shape == (2, 40 - first, 256)
    assert torch.allclose(torch.cat(found, dim=1), expected, atol=1e-4)
