"""Qwen4-exp: n-grams across the ends of texts, their hashes, and their table, which stays in its file."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import llmcli
from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.checkpoint.families.qwen4_rules import multipliers, primes_from
from llmcli.checkpoint.huggingface.config import family_config, model_config
from llmcli.checkpoint.huggingface.names import TensorNames
from llmcli.checkpoint.load_packed import Packing, planned_formats
from llmcli.checkpoint.load_weights import load_weights
from llmcli.checkpoint.memory_estimate import footprint
from llmcli.errors import CheckpointError
from llmcli.inspection.evaluation.flops import account
from llmcli.model.meta_device import meta_model
from llmcli.model.quantized.matrix import PackedMatrix
from llmcli.model.quantized.stored_embedding import EmbeddingInFile
from tests.support.models.recurrent_cases import RECURRENT
from tests.support.models.tiny import edit_config, random_ids, save, tiny_model
from tests.support.models.tiny_checkpoints import tiny_checkpoint

CPU = torch.device("cpu")
MODEL_TYPE, OVERRIDES = RECURRENT["qwen 4"]
# Ends of texts, two of them in a row.
IDS = [257 if at in (20, 41, 42, 77) else token for at, token in enumerate(random_ids(110))]
PROMPT = 43


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("qwen4"), MODEL_TYPE, **OVERRIDES)


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def test_several_texts_in_a_row_have_the_logits_of_transformers(tmp_path: Path) -> None:
    model = tiny_model(MODEL_TYPE, **OVERRIDES)
    loaded = llmcli.load(save(model, tmp_path), dtype="float32", device="cpu")
    with torch.inference_mode():
        whole = model(torch.tensor([IDS])).logits[0]
        theirs = model(torch.tensor([IDS[:PROMPT]]), use_cache=True)
        stepped = [theirs.logits[0]]
        for token in IDS[PROMPT:]:
            theirs = model(torch.tensor([[token]]), past_key_values=theirs.past_key_values, use_cache=True)
            stepped.append(theirs.logits[0])
        cache = loaded.model.new_cache(capacity=4)
        pieces = torch.split(torch.tensor([IDS]), [1, 1, 18, 1, 1, 20, *[1] * 68], dim=1)
        ours = torch.cat([loaded.model(piece, cache)[0] for piece in pieces])
    assert relative_error(torch.cat(stepped), whole) < 2e-5
    assert relative_error(loaded.logits(IDS), whole) < 2e-5
    assert relative_error(ours, torch.cat(stepped)) < 2e-5
    # What is before an end changes the logits behind it by attention and states only, so a mistake would not show there
    # if n-grams did not matter.
    with torch.inference_mode():
        for layer in loaded.model.layers:
            setattr(layer, "ngram", None)  # noqa: B010
    assert relative_error(loaded.logits(IDS), whole) > 1e-2


def test_hashes_are_those_of_transformers() -> None:
    from transformers.models.qwen4_exp import modeling_qwen4_exp

    for vocabulary, count, seed in ((248320, 3, 1234), (3, 2, 0), (151936, 5, 99)):
        theirs = modeling_qwen4_exp._build_layer_multipliers(vocabulary, count, 2, seed)
        assert multipliers(vocabulary, count, seed + 2 * 10007) == tuple(theirs.tolist())
    for start in (1, 2, 50, 20_000_000):
        primes = primes_from(start)
        found = [next(primes) for _ in range(20)]
        assert found == [modeling_qwen4_exp._find_nth_prime_after(start - 1, number) for number in range(1, 21)]


def test_published_sizes_give_the_table_that_transformers_makes() -> None:
    """The defaults: 16 parts of about 20 million rows, and other primes in the second layer that has any."""
    from transformers import AutoConfig
    from transformers.models.qwen4_exp.modeling_qwen4_exp import Qwen4ExpTextNGramEmbedding

    sizes: dict[str, Any] = {"ple_layer_ids": [1, 2], "eos_token_id": 248046, "num_hidden_layers": 4}
    index = {"indexer_n_heads": 16, "indexer_kv_heads": 1, "indexer_head_dim": 128}
    index |= {"indexer_budget": 2048, "indexer_compress_ratio": 4}
    rope = {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25}
    config = AutoConfig.for_model(MODEL_TYPE, **sizes, **index, rope_parameters=rope)
    keys = ConfigKeys(json.loads(config.to_json_string(use_diff=False)), Path("config.json"))
    layers = model_config(family_config(keys), TensorNames(["lm_head.weight"], {})).layers
    for number, layer in enumerate(layers[:2]):
        with torch.device("meta"):
            theirs = Qwen4ExpTextNGramEmbedding(config, config.ple_embed_dim, 0, number)
        assert layer.ngram is not None
        assert layer.ngram.parts == tuple(theirs.head_vocab_sizes)
        assert (layer.ngram.rows, 128) == tuple(theirs.ngram_embedding.weight.shape)
        assert layer.ngram.boundary == 248046
    assert layers[3].block_index is not None and layers[3].block_index.chosen == 512


def test_hashes_that_the_configuration_does_not_give_are_refused(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, MODEL_TYPE, **OVERRIDES)
    edit_config(folder, {"seed": 99})
    with pytest.raises(CheckpointError, match=r"layer_multipliers does not hold the hashes .* seed"):
        open_checkpoint(folder)
    # Files without them are fine.
    weights = folder / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(weights).items() if "ple_embedding.layer_" not in name}
    save_file(tensors, weights, metadata={"format": "pt"})
    assert not open_checkpoint(folder).notes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"indexer_budget": 18}, "indexer_budget must be a multiple"),
        ({"indexer_kv_heads": 2}, "indexer_kv_heads = 2"),
        ({"ple_layer_ids": [2]}, "ple_layer_ids = .*linear attention"),
        ({"ple_embed_dim": 25}, "cannot share 25 values"),
        ({"heads_per_ngram": 1 << 20, "ple_embed_dim": 1 << 21}, "cannot share"),
        ({"eos_token_id": None}, "eos_token_id"),
        ({"output_gate_type": "tanh"}, "output_gate_type = 'tanh'"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"hc_count": 1}, "hc_count"),
    ],
)
def test_impossible_values_are_refused_by_name(
    changes: dict[str, object], message: str, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "m")
    edit_config(tmp_path / "m", changes)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "m")


@pytest.mark.parametrize("packing", [None, "stored", "int8", "int4"])
def test_the_table_stays_in_its_file_and_takes_no_memory(packing: Packing | None, folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    shadow = meta_model(checkpoint.config)
    told = footprint(shadow, planned_formats(shadow, packing, checkpoint, CPU), torch.bfloat16, 64, CPU)
    seen: list[tuple[int, int]] = []
    model = load_weights(checkpoint, CPU, torch.bfloat16, lambda *done: seen.append(done), packing=packing)
    packed = sum(module.nbytes for module in model.modules() if isinstance(module, PackedMatrix))
    assert told.weights == packed + sum(parameter.nbytes for parameter in model.parameters())
    tables = [module for module in model.modules() if isinstance(module, EmbeddingInFile)]
    stored = sum(map(checkpoint.stored_bytes, checkpoint.sources)) - (240 + 320) * 6 * 4
    assert seen[-1] == (stored, stored)
    # Three tensors each, in any order and repeated.
    shards = [tensor for name, tensor in load_file(folder / "model.safetensors").items() if "layers.0.ple" in name]
    rows = torch.cat([tensor for tensor in shards if tensor.shape[-1] == 6 and tensor.dim() == 2])
    ids = torch.tensor([[239, 0, 80], [79, 160, 80]])
    assert torch.equal(tables[0](ids), rows[ids].to(torch.bfloat16))


def test_a_file_that_becomes_shorter_is_reported(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "m")
    loaded = llmcli.load(tmp_path / "m", dtype="float32", device="cpu")
    loaded.logits(IDS)
    os.truncate(tmp_path / "m" / "model.safetensors", 100)
    with pytest.raises(CheckpointError, match=r"model\.safetensors ends .*ngram_embedding"):
        loaded.logits(IDS)


def test_rows_that_a_token_does_not_look_up_are_not_counted_as_used(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    counted = account(checkpoint)
    experts = 3 * 3 * 24 * 32 * 6
    # Of 240 and 320 rows, four each.
    assert counted.idle_for_a_token == experts + (236 + 316) * 6
    assert counted.embeddings == 261 * 32 + (240 + 320) * 6
