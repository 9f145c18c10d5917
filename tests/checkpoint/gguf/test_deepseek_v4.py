"""GGUF files of DeepSeek-V4 (architecture `deepseek4`), which the `gguf` package does not know yet.

Names and keys are those of llama.cpp's loader and converter; no rows are reordered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

import llmcli
from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.errors import CheckpointError, UnsupportedModelError
from tests.support.gguf.facts import tokenizer_metadata
from tests.support.gguf.writer import add
from tests.support.models.newer_cases import NEWER, YARN
from tests.support.models.tiny import random_ids, save, tiny_model

IDS = random_ids(300)
SIZES = {
    **NEWER["deepseek v4"][1],
    "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 128},
    "rope_parameters": {key: value for key, value in YARN.items() if not key.startswith(("mscale", "rope_theta"))},
    "max_position_embeddings": 512,
    "intermediate_size": 32,
    # A number that metadata hold exactly.
    "swiglu_limit": 0.5,
}
_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.sinks": "attn_sinks.weight",
    "self_attn.q_a_proj.weight": "attn_q_a.weight",
    "self_attn.q_a_norm.weight": "attn_q_a_norm.weight",
    "self_attn.q_b_proj.weight": "attn_q_b.weight",
    "self_attn.kv_proj.weight": "attn_kv.weight",
    "self_attn.kv_norm.weight": "attn_kv_a_norm.weight",
    "self_attn.o_a_proj.weight": "attn_output_a.weight",
    "self_attn.o_b_proj.weight": "attn_output_b.weight",
    "self_attn.compressor.indexer.q_b_proj.weight": "indexer.attn_q_b.weight",
    "self_attn.compressor.indexer.scorer.weights_proj.weight": "indexer.proj.weight",
    **{
        f"self_attn.{ours}.{part}": f"{theirs}_compressor_{short}.weight"
        for ours, theirs in (("compressor", "attn"), ("compressor.indexer", "indexer"))
        for part, short in (
            ("kv_proj.weight", "kv"), ("gate_proj.weight", "gate"), ("kv_norm.weight", "norm"), ("position_bias", "ape")
        )
    },
    **{
        f"{part}_hc.{name}": f"hc_{part}_{name}.weight" for part in ("attn", "ffn") for name in ("fn", "base", "scale")
    },
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    "mlp.gate.tid2eid": "ffn_gate_tid2eid.weight",
    "mlp.experts.down_proj": "ffn_down_exps.weight",
    **{f"mlp.shared_experts.{name}_proj.weight": f"ffn_{name}_shexp.weight" for name in ("gate", "up", "down")},
}  # fmt: skip
_TOP = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    **{f"model.hc_head.hc_{name}": f"output_hc_{name}.weight" for name in ("fn", "base", "scale")},
}


def write(model: Any, path: Path, *, changes: dict[str, Any] | None = None, mtp: bool = False) -> Path:
    """A GGUF file of the model, with float32 weights."""
    config = model.config
    writer = gguf.GGUFWriter(path, "deepseek4")
    yarn = config.rope_parameters["compress"]
    ratios = {"sliding_attention": 0, "compressed_sparse_attention": 4, "heavily_compressed_attention": 128}
    values: dict[str, Any] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers + mtp,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": 1,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.sliding_window": config.sliding_window,
        "attention.q_lora_rank": config.q_lora_rank,
        "attention.output_lora_rank": config.o_lora_rank,
        "attention.output_group_count": config.o_groups,
        "attention.compress_ratios": [ratios[kind] for kind in config.layer_types] + [0],
        "attention.compress_rope_freq_base": config.compress_rope_theta,
        "attention.indexer.head_count": config.index_n_heads,
        "attention.indexer.key_length": config.index_head_dim,
        "attention.indexer.top_k": config.index_topk,
        "rope.dimension_count": config.qk_rope_head_dim,
        "rope.freq_base": config.rope_theta,
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": yarn["factor"],
        "rope.scaling.original_context_length": yarn["original_max_position_embeddings"],
        "rope.scaling.yarn_beta_fast": float(yarn["beta_fast"]),
        "rope.scaling.yarn_beta_slow": float(yarn["beta_slow"]),
        "expert_count": config.n_routed_experts,
        "expert_used_count": config.num_experts_per_tok,
        "expert_shared_count": 1,
        "expert_feed_forward_length": config.moe_intermediate_size,
        "expert_weights_scale": config.routed_scaling_factor,
        "expert_weights_norm": True,
        "expert_gating_func": 4,
        "hash_layer_count": sum(kind == "hash_moe" for kind in config.mlp_layer_types),
        "swiglu_clamp_exp": [config.swiglu_limit] * config.num_hidden_layers,
        "hyper_connection.count": config.hc_mult,
        "hyper_connection.sinkhorn_iterations": config.hc_sinkhorn_iters,
        "hyper_connection.epsilon": config.hc_eps,
        "nextn_predict_layers": 1,
        **(changes or {}),
    }
    for key, value in {**{f"deepseek4.{key}": value for key, value in values.items()}, **tokenizer_metadata()}.items():
        add(writer, key, value)

    def store(name: str, tensor: torch.Tensor) -> None:
        writer.add_tensor(name, tensor.numpy(), raw_dtype=Kind.F32)

    for name, tensor in model.state_dict().items():
        if name in _TOP:
            store(_TOP[name], tensor)
            continue
        at, _, local = name.removeprefix("model.layers.").partition(".")
        if local == "mlp.experts.gate_up_proj":
            gate, up = tensor.chunk(2, dim=1)
            store(f"blk.{at}.ffn_gate_exps.weight", gate.contiguous())
            store(f"blk.{at}.ffn_up_exps.weight", up.contiguous())
        elif local == "mlp.gate.tid2eid":
            writer.add_tensor(f"blk.{at}.{_LAYER[local]}", tensor.to(torch.int32).numpy())
        else:
            store(f"blk.{at}.{_LAYER[local]}", tensor)
    if mtp:
        store(f"blk.{config.num_hidden_layers}.nextn.eh_proj.weight", torch.ones(4, 4))
        store(f"blk.{config.num_hidden_layers}.attn_norm.weight", torch.ones(32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("deepseek_v4", **SIZES)


@pytest.mark.parametrize("mtp", [False, True])
def test_logits_and_configuration_are_those_of_the_folder(model: Any, mtp: bool, tmp_path: Path) -> None:
    path = write(model, tmp_path / "model.gguf", mtp=mtp)
    found = llmcli.load(path, dtype="float32", device="cpu")
    folder = open_checkpoint(save(model, tmp_path / "folder")).config
    assert [layer.blocks for layer in found.config.layers] == [layer.blocks for layer in folder.layers]
    assert [layer.experts for layer in found.config.layers] == [layer.experts for layer in folder.layers]
    with torch.inference_mode():
        expected = model(torch.tensor([IDS])).logits[0]
    assert float((found.logits(IDS) - expected).abs().max() / expected.abs().max()) < 2e-5


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"expert_gating_func": 2}, UnsupportedModelError, "gating function 2"),
        ({"swiglu_clamp_exp": [0.3, 0.4, 0.3]}, UnsupportedModelError, "swiglu_clamp_exp"),
        ({"attention.compress_ratios": [0, 4]}, CheckpointError, "compress_ratios"),
        ({"attention.compress_ratios": [0, 4, 32]}, UnsupportedModelError, "compress_ratios"),
        ({"expert_shared_count": 2}, UnsupportedModelError, "2 shared experts"),
    ],
)
def test_what_is_not_supported_is_refused(
    model: Any, changes: dict[str, Any], error: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        open_checkpoint(write(model, tmp_path / "model.gguf", changes=changes))
