"""Families with recurrent layers against `transformers`, on texts longer than a chunk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import llmcli
from llmcli.engine import Engine, SamplingParams, Step
from llmcli.model.meta_device import meta_model
from llmcli.model.parameters import parameters_of
from llmcli.model.recurrent.chunks import CHUNK
from tests.support.models.recurrent_cases import RECURRENT
from tests.support.models.tiny import edit_config, random_ids, save, tiny_model
from tests.support.models.tiny_checkpoints import tiny_checkpoint

IDS = random_ids(2 * CHUNK + 22)
# Lengths that cross the borders of chunks, single tokens among them.
PIECES = (1, 7, CHUNK, CHUNK + 1, 1, 1, 11)
PROMPT = 35


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def in_pieces(loaded: llmcli.LoadedModel) -> torch.Tensor:
    cache = loaded.model.new_cache(capacity=4)
    with torch.inference_mode():
        pieces = torch.split(torch.tensor([IDS]), [*PIECES], dim=1)
        return torch.cat([loaded.model(piece, cache)[0] for piece in pieces])


def published(model: Any, folder: Path) -> Path:
    """Write a checkpoint with the tensors of published files.

    Of Olmo Hybrid, transformers writes the convolutions in equal thirds, not by queries, keys and values.
    """
    save(model, folder)
    if model.config.model_type == "olmo_hybrid":
        tensors = load_file(folder / "model.safetensors")
        keys = model.model.layers[0].linear_attn.key_dim
        for name in [name for name in tensors if name.endswith("q_conv1d.weight")]:
            names = [name.replace("q_conv1d", f"{part}_conv1d") for part in "qkv"]
            whole = torch.cat([tensors[each] for each in names])
            parts = torch.split(whole, [keys, keys, len(whole) - 2 * keys])
            tensors |= {each: part.clone() for each, part in zip(names, parts, strict=True)}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("case", RECURRENT)
def test_logits_and_greedy_tokens_equal_those_of_transformers(case: str, tmp_path: Path) -> None:
    model_type, overrides = RECURRENT[case]
    model = tiny_model(model_type, **overrides)
    loaded = llmcli.load(published(model, tmp_path), dtype="float32", device="cpu")
    with torch.inference_mode():
        reference = model(torch.tensor([IDS])).logits[0]
    assert relative_error(loaded.logits(IDS), reference) < 2e-5
    assert relative_error(in_pieces(loaded), reference) < 2e-5

    events = Engine(loaded.model, loaded.tokenizer).stream(IDS[:PROMPT], SamplingParams(temperature=0, max_tokens=40))
    replied = [event.id for event in events if isinstance(event, Step)]
    with torch.inference_mode():
        after = model(torch.tensor([IDS[:PROMPT] + replied])).logits[0, :, : loaded.tokenizer.vocab_size]
    assert after.argmax(-1)[PROMPT - 1 : -1].tolist() == replied

    created = [(name, tuple(parameter.shape)) for name, parameter in meta_model(loaded.config).named_parameters()]
    assert [(name, parameter.shape) for name, parameter in parameters_of(loaded.config).items()] == created


@pytest.mark.parametrize("case", ["mamba", "granite 4, dense", "kimi linear", "rwkv 4", "xlstm", "qwen 4"])
def test_a_long_text_in_pieces_gives_what_the_whole_gives(case: str, tmp_path: Path) -> None:
    model_type, overrides = RECURRENT[case]
    loaded = llmcli.load(tiny_checkpoint(tmp_path, model_type, **overrides), dtype="float32", device="cpu")
    sizes = [1, 7, 64, 65, 513]
    ids = random_ids(sum(sizes))
    cache = loaded.model.new_cache(capacity=4)
    with torch.inference_mode():
        pieces = [loaded.model(piece, cache)[0] for piece in torch.split(torch.tensor([ids]), sizes, dim=1)]
    assert relative_error(torch.cat(pieces), loaded.logits(ids)) < 2e-5


def test_the_residual_stream_of_rwkv_is_that_of_training(tmp_path: Path) -> None:
    """In evaluation transformers halves it, which norms undo but for the number that they add to variances."""
    model = tiny_model("rwkv", rescale_every=1)
    loaded = llmcli.load(save(model, tmp_path), dtype="float32", device="cpu")
    with torch.inference_mode():
        halved, trained = (model.train(mode)(torch.tensor([IDS])).logits[0] for mode in (False, True))
    assert relative_error(loaded.logits(IDS), trained) < 2e-5
    assert relative_error(halved, trained) > 1e-4


def test_fused_projections_of_xlstm_are_read_in_rows(tmp_path: Path) -> None:
    """transformers cannot make such a model, so the tensors of another one are joined."""
    model_type, overrides = RECURRENT["xlstm"]
    folder = tiny_checkpoint(tmp_path, model_type, **overrides)
    expected = llmcli.load(folder, dtype="float32", device="cpu").logits(IDS[:9])
    joined = {
        "qkv_opreact.weight": [f"{part}.weight" for part in ("q", "k", "v", "ogate_preact")],
        "ifgate_preact.weight": ["igate_preact.weight", "fgate_preact.weight"],
        "ifgate_preact.bias": ["igate_preact.bias", "fgate_preact.bias"],
        "proj_up_gate_z.weight": ["proj_up_gate.weight", "proj_up.weight"],
    }
    tensors = load_file(folder / "model.safetensors")
    for fused, parts in joined.items():
        for first in [name for name in tensors if name.endswith(f".{parts[0]}")]:
            at = first.removesuffix(parts[0])
            tensors[at + fused] = torch.cat([tensors.pop(at + part) for part in parts])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    edit_config(folder, {"weight_mode": "fused"})
    assert torch.equal(llmcli.load(folder, dtype="float32", device="cpu").logits(IDS[:9]), expected)


# Forms of published files that differ from what the configuration classes write: a case, changes, and keys left out.
PUBLISHED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "mamba 2": ({"time_step_limit": [0.0, float("inf")], "norm_before_gate": True}, ("max_position_embeddings",)),
    "granite 4": ({"layer_types": ["mamba", "attention", "mamba"], "normalization_function": "rmsnorm"}, ()),
    "bamba": ({"attn_rotary_emb": 4, "rope_theta": 1e4}, ("rope_parameters",)),
    "falcon h1": ({"rope_theta": 1e4, "rope_scaling": None}, ("rope_parameters",)),
    "nemotron h": ({"hybrid_override_pattern": "M-*M", "num_hidden_layers": 4}, ("layers_block_type",)),
    "nemotron 3": ({"hybrid_override_pattern": "ME*E", "num_hidden_layers": 4}, ("layers_block_type",)),
    "kimi linear": (
        {
            "linear_attn_config": {"full_attn_layers": [2], "kda_layers": [1, 3], "head_dim": 8, "num_heads": 4}
            | {"short_conv_kernel_size": 4},
            "first_k_dense_replace": 1,
            "moe_router_activation_func": "sigmoid",
            "rope_theta": 1e4,
        },
        ("layer_types", "mlp_layer_types", "linear_head_dim", "linear_num_heads", "linear_conv_kernel_dim"),
    ),
    "qwen 3.5": (
        {
            "partial_rotary_factor": 0.25,
            "rope_theta": 1e4,
            "rope_scaling": None,
            "full_attention_interval": 2,
            "attn_output_gate": True,
            "mamba_ssm_dtype": "float32",
            "mtp_num_hidden_layers": 1,
            "mtp_use_dedicated_embeddings": False,
        },
        ("rope_parameters", "layer_types"),
    ),
    "rwkv 4": (
        {"context_length": 1024, "rescale_every": 6, "attention_hidden_size": 32, "layer_norm_epsilon": 1e-5},
        ("max_position_embeddings",),
    ),
    "xlstm": (
        {"embedding_dim": 128, "num_blocks": 3, "head_dim": 32, "add_embedding_dropout": False, "add_out_norm": True}
        | {"mode": "inference", "weight_mode": "single", "step_kernel": "native", "vocab_size": 261},
        ("hidden_size", "num_hidden_layers", "intermediate_size"),
    ),
    "qwen 4": (
        {
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "partial_rotary_factor": 0.5,
            "rope_theta": 1e4,
            "rope_scaling": None,
            "eos_token_id": [257, 12],
            "mtp_num_hidden_layers": 1,
        },
        ("rope_parameters",),
    ),
    "qwen 4, no n-grams": ({"full_attention_interval": 2}, ("layer_types",)),
    "lfm 2": ({"block_ff_dim": 48, "tie_embedding": True, "full_attn_idxs": [1], "rope_theta": 1e6}, ("layer_types",)),
    "ling 3": (
        {"head_dim": 8, "rope_theta": 6e6, "num_experts_per_tok": 2, "n_group": 4, "norm_topk_prob": True},
        ("layer_types", "mlp_layer_types", "linear_head_dim", "rope_parameters", "num_expert_group"),
    ),
}


@pytest.mark.parametrize("case", PUBLISHED)
def test_published_forms_of_the_configuration_mean_the_same(case: str, tmp_path: Path) -> None:
    model_type, overrides = RECURRENT[case]
    folder = tiny_checkpoint(tmp_path, model_type, **overrides)
    expected = llmcli.load(folder, dtype="float32", device="cpu").logits(IDS[:9])
    changes, drop = PUBLISHED[case]
    edit_config(folder, changes, drop=drop)
    assert torch.equal(llmcli.load(folder, dtype="float32", device="cpu").logits(IDS[:9]), expected)
