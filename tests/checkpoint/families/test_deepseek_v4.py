"""DeepSeek-V4 as it is published: names, keys, a block for multi-token prediction, FP8 matrices and FP4 experts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import llmcli
from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.errors import CheckpointError, UnsupportedModelError
from tests.support.models.newer_cases import NEWER
from tests.support.models.tiny import edit_config, random_ids
from tests.support.models.tiny_checkpoints import tiny_checkpoint

IDS = random_ids(60)
YARN = {"type": "yarn", "factor": 4, "original_max_position_embeddings": 16, "beta_fast": 32, "beta_slow": 1}
OTHER_NAMES = {
    "model.embed_tokens.": "embed.",
    "model.hc_head.hc_": "hc_head_",
    ".attn.norm.": ".attn.kv_norm.",
    "model.": "",
}


def published_name(name: str) -> str:
    for ours, theirs in OTHER_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def published(folder: Path, **overrides: Any) -> dict[str, Tensor]:
    """Write a checkpoint with the names of published files, and a block more; returns its tensors."""
    model_type, sizes = NEWER["deepseek v4"]
    tiny_checkpoint(folder, model_type, **{**sizes, **overrides})
    tensors = {published_name(name): value for name, value in load_file(folder / "model.safetensors").items()}
    tensors |= {"mtp.0.attn.wq_a.weight": torch.ones(2, 2), "mtp.0.hc_head_fn": torch.ones(3)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return tensors


def test_published_names_and_keys_mean_the_same(tmp_path: Path) -> None:
    model_type, sizes = NEWER["deepseek v4"]
    rope = {"rope_type": "yarn", **{key: value for key, value in YARN.items() if key != "type"}}
    expected = llmcli.load(
        tiny_checkpoint(tmp_path / "saved", model_type, **sizes, rope_parameters=rope), dtype="float32", device="cpu"
    )
    published(tmp_path / "published", rope_parameters=rope)
    edit_config(
        tmp_path / "published",
        {
            "compress_ratios": [0, 4, 128, 0],
            "compress_rate_hca": 8,
            "num_hash_layers": 1,
            "qk_rope_head_dim": 8,
            "rope_theta": 10000,
            "rope_scaling": YARN,
            "norm_topk_prob": True,
            "topk_method": "noaux_tc",
            "num_nextn_predict_layers": 1,
        },
        drop=("layer_types", "compress_rates", "mlp_layer_types", "partial_rotary_factor", "rope_parameters"),
    )
    found = llmcli.load(tmp_path / "published", dtype="float32", device="cpu")
    assert found.config == expected.config
    assert torch.equal(found.logits(IDS), expected.logits(IDS))
    assert not found.notes


def test_the_default_pattern_of_layers_is_that_of_transformers(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, "deepseek_v4", **{**NEWER["deepseek v4"][1], "index_topk": 64})
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["layer_types"], config["mlp_layer_types"]
    path.write_text(json.dumps({**config, "num_hidden_layers": 7}))
    from transformers import AutoConfig

    theirs = AutoConfig.from_pretrained(folder)
    from llmcli.checkpoint.families.config_keys import ConfigKeys
    from llmcli.checkpoint.huggingface.config import family_config, model_config
    from llmcli.checkpoint.huggingface.names import TensorNames

    description = family_config(ConfigKeys(json.loads(path.read_text()), path))
    layers = model_config(description, TensorNames(["lm_head.weight"], {})).layers
    rates = [0 if layer.blocks is None else layer.blocks.rate for layer in layers]
    assert rates == [theirs.compress_rates[kind] for kind in theirs.layer_types]
    assert [layer.experts.by_token for layer in layers if layer.experts] == [
        kind == "hash_moe" for kind in theirs.mlp_layer_types
    ]


def quantized(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Matrices in FP8 with a scale for 16 x 16 values, experts in FP4 with one for 32; and what they decode to."""
    rng = torch.Generator().manual_seed(0)
    levels = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    levels = torch.cat((levels, -levels))
    stored, exact = dict(tensors), dict(tensors)
    for name, values in tensors.items():
        if ".experts." in name:
            codes = torch.randint(0, 16, values.shape, generator=rng)
            exponents = torch.randint(120, 124, (len(values), values.shape[1] // 32), generator=rng)
            packed = (codes[:, 0::2] | codes[:, 1::2] << 4).to(torch.uint8).view(torch.int8)
            powers = torch.pow(2.0, exponents - 127).repeat_interleave(32, 1)
            exact[name] = levels[codes] * powers
        elif ".attn.w" in name:
            packed = values.mul(100).to(torch.float8_e4m3fn)
            grid = [-(-size // 16) for size in values.shape]
            exponents = torch.randint(119, 122, grid, generator=rng)
            powers = torch.pow(2.0, exponents - 127).repeat_interleave(16, 0).repeat_interleave(16, 1)
            exact[name] = packed.float() * powers[: values.shape[0], : values.shape[1]]
        else:
            continue
        stored[name] = packed
        stored[name.removesuffix("weight") + "scale"] = exponents.to(torch.uint8).view(torch.float8_e8m0fnu)
    return stored, exact


def test_fp8_matrices_and_fp4_experts(tmp_path: Path) -> None:
    sizes = {"intermediate_size": 64}
    stored, exact = quantized(published(tmp_path / "stored", **sizes))
    published(tmp_path / "exact", **sizes)
    save_file(exact, tmp_path / "exact" / "model.safetensors", metadata={"format": "pt"})
    save_file(stored, tmp_path / "stored" / "model.safetensors", metadata={"format": "pt"})
    settings = {"quant_method": "fp8", "weight_block_size": [16, 16], "fmt": "e4m3", "scale_fmt": "ue8m0"}
    edit_config(tmp_path / "stored", {"quantization_config": settings, "expert_dtype": "fp4"})
    checkpoint = open_checkpoint(tmp_path / "stored")
    assert {tensor.encoding for tensor in checkpoint.tensors.values()} >= {"FP8", "MXFP4", "I64"}
    expected = llmcli.load(tmp_path / "exact", dtype="float32", device="cpu").logits(IDS)
    found = llmcli.load(tmp_path / "stored", dtype="float32", device="cpu")
    torch.testing.assert_close(found.logits(IDS), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "drop", "error", "words"),
    [
        ({"compress_ratios": [0, 4, 64]}, ("layer_types",), UnsupportedModelError, "compress_ratios"),
        ({"o_groups": 3}, (), CheckpointError, "o_groups"),
        ({"mlp_layer_types": ["dense"] * 3}, (), CheckpointError, "mlp_layer_types"),
        ({"scoring_func": "softmax"}, (), UnsupportedModelError, "softmax"),
        ({"index_head_dim": 4}, (), CheckpointError, "index_head_dim"),
        ({"n_shared_experts": 2}, (), UnsupportedModelError, "n_shared_experts"),
    ],
)
def test_contradictions_and_unknown_values_are_refused(
    changes: dict[str, object], drop: tuple[str, ...], error: type[Exception], words: str, tmp_path: Path
) -> None:
    folder = tiny_checkpoint(tmp_path, *NEWER["deepseek v4"][:1], **NEWER["deepseek v4"][1])
    edit_config(folder, changes, drop=drop)
    with pytest.raises(error, match=words):
        open_checkpoint(folder)


def test_a_table_of_experts_holds_whole_numbers_of_experts(tmp_path: Path) -> None:
    tensors = published(tmp_path)
    tensors["layers.0.ffn.gate.tid2eid"][3, 1] = 8
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"tid2eid holds 8; whole numbers from 0 to 7"):
        llmcli.load(tmp_path, dtype="float32", device="cpu")
    tensors["layers.0.ffn.gate.tid2eid"] = torch.zeros(261, 2)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="whole numbers are needed"):
        llmcli.load(tmp_path, dtype="float32", device="cpu")


def test_parts_that_decide_much_stay_in_float32(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, *NEWER["deepseek v4"][:1], **NEWER["deepseek v4"][1])
    parts = dict(llmcli.load(folder, dtype="bfloat16", device="cpu").model.named_parameters())
    kept = {name.rpartition(".")[2] for name, one in parts.items() if one.dtype == torch.float32}
    assert kept >= {"sinks", "position_bias", "fn", "base", "scale", "e_score_correction_bias"}
    norms = [one.dtype for name, one in parts.items() if "norm" in name]
    assert set(norms) == {torch.float32}
    assert parts["layers.1.self_attn.q_b_proj.weight"].dtype == torch.bfloat16
    assert parts["layers.0.mlp.gate.tid2eid"].dtype == torch.int64
