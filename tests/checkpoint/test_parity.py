"""Our model against `transformers`, family by family: the readable model is what everything else is checked against."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import llmcli
from llmcli.engine import SamplingParams, Step
from tests.tiny import edit_config, random_ids, save, tiny_model

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama 1": ("llama", {"num_key_value_heads": 4}),
    "llama 2, grouped": ("llama", {"rms_norm_eps": 1e-5}),
    "llama 3.1": (
        "llama",
        {"rope_parameters": {**LLAMA3, "rope_theta": 5e5, "original_max_position_embeddings": 32}},
    ),
    "llama 3.2, tied": (
        "llama",
        {
            "tie_word_embeddings": True,
            "rope_parameters": {**LLAMA3, "factor": 32.0, "rope_theta": 5e5, "original_max_position_embeddings": 16},
        },
    ),
    "llama, biases, wide heads": ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 16}),
    "llama, linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
    "smollm": (
        "llama",
        {
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "hidden_size": 48,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
        },
    ),
    "mistral, window shorter than the text": ("mistral", {"sliding_window": 7}),
    "mistral, no window, wide heads": ("mistral", {"sliding_window": None, "head_dim": 12}),
    "qwen2": ("qwen2", {}),
    "qwen2, mixed windows": ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen2, yarn": (
        "qwen2",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 1e6,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3, tied, biases": ("qwen3", {"tie_word_embeddings": True, "attention_bias": True, "head_dim": 8}),
}


@pytest.fixture(params=CASES, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    model_type, overrides = CASES[request.param]
    model = tiny_model(model_type, **overrides)
    return model, save(model, tmp_path_factory.mktemp("model"))


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def test_logits_equal_the_reference(pair: tuple[Any, Path]) -> None:
    model, folder = pair
    ids = random_ids(50)
    with torch.inference_mode():
        theirs = model(torch.tensor([ids])).logits[0]
    ours = llmcli.load(folder, dtype="float32", device="cpu").logits(ids)
    assert relative_error(ours, theirs) < 1e-5


def test_cached_logits_equal_uncached_ones(pair: tuple[Any, Path]) -> None:
    loaded = llmcli.load(pair[1], dtype="float32", device="cpu")
    ids = random_ids(50)
    whole = loaded.logits(ids)
    cache = loaded.model.new_cache(capacity=4)
    with torch.inference_mode():
        # A first chunk, single tokens, a chunk in the middle: then back, and on again along the same ids.
        pieces = [
            loaded.model(torch.tensor([chunk]), cache)[0] for chunk in (ids[:9], ids[9:10], ids[10:11], ids[11:30])
        ]
        assert relative_error(torch.cat(pieces), whole[:30]) < 1e-5
        cache.truncate(13)
        rest = [loaded.model(torch.tensor([[token]]), cache)[0] for token in ids[13:]]
    assert relative_error(torch.cat(rest), whole[13:]) < 1e-5


def test_greedy_tokens_equal_the_reference(pair: tuple[Any, Path]) -> None:
    model, folder = pair
    prompt = random_ids(12, seed=2)
    with torch.inference_mode():
        theirs = model.generate(
            torch.tensor([prompt]), max_new_tokens=40, do_sample=False, eos_token_id=None, pad_token_id=0
        )[0, len(prompt) :].tolist()
    loaded = llmcli.load(folder, dtype="float32", device="cpu")
    engine = llmcli.engine.Engine(loaded.model, loaded.tokenizer)
    events = engine.stream(prompt, SamplingParams(temperature=0, max_tokens=40))
    assert [event.id for event in events if isinstance(event, Step)] == theirs
    # Without a cache: every token from the whole text so far.
    ids = list(prompt)
    for _ in range(40):
        ids.append(int(loaded.logits(ids)[-1].argmax()))
    assert ids[len(prompt) :] == theirs


def test_bfloat16_is_as_close_as_the_reference(pair: tuple[Any, Path]) -> None:
    model, folder = pair
    ids = random_ids(50)
    with torch.inference_mode():
        exact = model(torch.tensor([ids])).logits[0]
        import copy

        theirs = copy.deepcopy(model).bfloat16()(torch.tensor([ids])).logits[0].float()
    ours = llmcli.load(folder, dtype="bfloat16", device="cpu").logits(ids).float()
    assert (ours - exact).pow(2).mean().sqrt() < 1.5 * (theirs - exact).pow(2).mean().sqrt()


def test_sharded_checkpoints_load_alike(tmp_path: Path) -> None:
    model = tiny_model("llama")
    one, many = save(model, tmp_path / "one"), save(model, tmp_path / "many", max_shard_size="20KB")
    assert len(list(many.glob("*.safetensors"))) > 3
    ids = random_ids(20)
    assert torch.equal(llmcli.load(one).logits(ids), llmcli.load(many).logits(ids))


LEGACY = {
    "4.x, scaling by rope_type": {
        "rope_theta": 5e5,
        "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 32},
    },
    "4.x, scaling by type": {
        "rope_theta": 5e5,
        "rope_scaling": {
            "type": "llama3",
            **{k: v for k, v in LLAMA3.items() if k != "rope_type"},
            "original_max_position_embeddings": 32,
        },
    },
    "both generations: rope_scaling wins": {
        "rope_theta": 5e5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 77.0},
        "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 32},
    },
}


@pytest.mark.parametrize("keys", LEGACY.values(), ids=LEGACY)
def test_older_config_generations_mean_the_same(tmp_path: Path, keys: dict[str, object]) -> None:
    model = tiny_model("llama", **CASES["llama 3.1"][1])
    folder = save(model, tmp_path)
    ids = random_ids(50)
    new = llmcli.load(folder, dtype="float32").logits(ids)
    edit_config(folder, keys, drop=("rope_parameters",))
    assert torch.equal(llmcli.load(folder, dtype="float32").logits(ids), new)


def test_absent_and_null_windows_differ(tmp_path: Path) -> None:
    folder = save(tiny_model("mistral", sliding_window=None), tmp_path)
    assert {layer.window for layer in llmcli.load(folder).config.layers} == {None}
    edit_config(folder, {}, drop=("sliding_window", "layer_types"))
    assert {layer.window for layer in llmcli.load(folder).config.layers} == {4096}


def test_weights_are_read_in_the_stored_type_and_kept_in_the_wanted_one(tmp_path: Path) -> None:
    model = tiny_model("llama").bfloat16()
    folder = save(model, tmp_path)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    for dtype in ("float32", "bfloat16", "float16"):
        loaded = llmcli.load(folder, dtype=dtype)
        expected = model.state_dict()["model.layers.1.mlp.up_proj.weight"].to(getattr(torch, dtype))
        assert torch.equal(loaded.model.get_parameter("layers.1.mlp.up_proj.weight"), expected)
