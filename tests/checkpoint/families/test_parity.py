"""The readable model against `transformers`, family by family; everything else is checked against it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import llmcli
from llmcli.engine import Engine, SamplingParams, Step
from llmcli.loaded_model import LoadedModel
from llmcli.model.meta_device import meta_model
from llmcli.model.parameters import parameters_of
from tests.support.models.parity_cases import CASES, LLAMA3, SPANNING
from tests.support.models.tiny import edit_config, random_ids, save, tiny_model
from tests.support.models.tiny_checkpoints import tiny_checkpoint

IDS = random_ids(50)


# Also RoPE that depends on the text's length, latent attention, shared keys and values, and per-layer embeddings.
SOME = (*SPANNING, "llama, dynamic", "deepseek v3", "gemma 4, small", "gemma 4, experts", "gemma 3n")


@pytest.fixture(params=CASES, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, LoadedModel]:
    return reference_and_ours(request.param, tmp_path_factory.mktemp("model"))


@pytest.fixture(params=SOME, scope="module")
def some_pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Path, LoadedModel]:
    return reference_and_ours(request.param, tmp_path_factory.mktemp("model"))


def reference_and_ours(case: str, folder: Path) -> tuple[Any, Path, LoadedModel]:
    model_type, overrides = CASES[case]
    model = tiny_model(model_type, **overrides)
    save(model, folder)
    return model, folder, llmcli.load(folder, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def reference(pair: tuple[Any, Path, LoadedModel]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = pair[0](torch.tensor([IDS])).logits[0]
    return logits


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def test_parameters_follow_from_the_configuration(pair: tuple[Any, Path, LoadedModel]) -> None:
    config = pair[2].config
    created = [(name, tuple(parameter.shape)) for name, parameter in meta_model(config).named_parameters()]
    assert [(name, parameter.shape) for name, parameter in parameters_of(config).items()] == created


def test_logits_equal_those_of_transformers(pair: tuple[Any, Path, LoadedModel], reference: torch.Tensor) -> None:
    assert relative_error(pair[2].logits(IDS), reference) < 2e-5


def test_cached_logits_equal_those_of_transformers(
    pair: tuple[Any, Path, LoadedModel], reference: torch.Tensor
) -> None:
    model = pair[2].model
    # So small that sliding-window caches drop and move entries many times in this text.
    cache = model.new_cache(capacity=4, rewind=5, room=3)
    cache.expected_length = len(IDS)

    def read(start: int, stop: int) -> None:
        with torch.inference_mode():
            logits = model(torch.tensor([IDS[start:stop]]), cache)[0]
        assert relative_error(logits, reference[start:stop]) < 2e-5

    # A first chunk, single tokens, a chunk longer than any window; then rewind, and read the same ids again.
    for start, stop in ((0, 9), (9, 10), (10, 11), (11, 30)):
        read(start, stop)
    cache.truncate(25)
    for start in range(25, 45):
        read(start, start + 1)
    cache.truncate(41)
    read(41, 50)
    # Rewind as far as all layers still hold the needed keys; then from the start.
    cache.truncate(cache.reusable(20))
    read(cache.length, 40)


def test_greedy_tokens_equal_those_of_transformers(some_pair: tuple[Any, Path, LoadedModel]) -> None:
    model, _, loaded = some_pair
    prompt = random_ids(35, seed=2)
    with torch.inference_mode():
        model = copy.deepcopy(model)
        # Length-dependent RoPE knows the final length, as in transformers.
        model(torch.tensor([random_ids(len(prompt) + 40)]))
        theirs = model.generate(
            torch.tensor([prompt]), max_new_tokens=40, do_sample=False, eos_token_id=None, pad_token_id=0
        )[0, len(prompt) :].tolist()
    engine = Engine(loaded.model, loaded.tokenizer)
    events = engine.stream(prompt, SamplingParams(temperature=0, max_tokens=40))
    assert [event.id for event in events if isinstance(event, Step)] == theirs
    # Without a cache, in one pass.
    best = loaded.logits(prompt + theirs)[:, : loaded.tokenizer.vocab_size].argmax(-1)
    assert best[len(prompt) - 1 : -1].tolist() == theirs


def test_bfloat16_errors_are_no_larger_than_those_of_transformers(some_pair: tuple[Any, Path, LoadedModel]) -> None:
    model, folder, _ = some_pair
    rounded, ours = copy.deepcopy(model).bfloat16(), llmcli.load(folder, dtype="bfloat16", device="cpu")
    # Several texts: if rounding sends a token to another expert, the error of one text says little about rounding,
    # and that happens in both implementations.
    their_error = our_error = 0.0
    for seed in range(12):
        ids = random_ids(50, seed=seed)
        with torch.inference_mode():
            exact = model(torch.tensor([ids])).logits[0]
            their_error += float((rounded(torch.tensor([ids])).logits[0].float() - exact).pow(2).mean())
        our_error += float((ours.logits(ids).float() - exact).pow(2).mean())
    assert our_error**0.5 < 1.5 * their_error**0.5


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
    folder = tiny_checkpoint(tmp_path, "mistral", sliding_window=None)
    assert {layer.window for layer in llmcli.load(folder).config.layers} == {None}
    edit_config(folder, {}, drop=("sliding_window", "layer_types"))
    assert {layer.window for layer in llmcli.load(folder).config.layers} == {4096}


def test_stored_dtypes_are_converted_to_the_requested_one(tmp_path: Path) -> None:
    model = tiny_model("llama").bfloat16()
    folder = save(model, tmp_path)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    for dtype in ("float32", "bfloat16", "float16"):
        loaded = llmcli.load(folder, dtype=dtype)
        expected = model.state_dict()["model.layers.1.mlp.up_proj.weight"].to(getattr(torch, dtype))
        assert torch.equal(loaded.model.get_parameter("layers.1.mlp.up_proj.weight"), expected)
