"""Model families of GGUF files, as data: one entry for each `general.architecture`.

An architecture corresponds to a family of Hugging Face models. Facts that the file omits (which layers have a sliding
window, the attention scale, the order of rows) are those that llama.cpp's converter and loader hard-code. They are
written here as keys of the family's `config.json`, so that one set of rules builds models of both formats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

from llmcli.checkpoint.gguf.header import GGUFHeader
from llmcli.checkpoint.gguf.keys import ArchitectureKeys
from llmcli.checkpoint.gguf.model_files import refuse_companion
from llmcli.checkpoint.gguf.refused_models import refuse_unsupported_gguf
from llmcli.errors import UnsupportedModelError

Derived = Callable[[ArchitectureKeys], dict[str, Any]]


def _nothing(keys: ArchitectureKeys) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Architecture:
    """Facts about a `general.architecture` that its metadata omit."""

    family: str | Callable[[ArchitectureKeys], str]
    """The corresponding `model_type`, or a function that chooses it from the metadata."""
    paired: bool = False
    """Whether the two rows of a rotated pair, of queries and keys, are stored next to each other."""
    window: bool = False
    """Whether the `sliding_window` in the file applies."""
    dense_size: bool = False
    """Whether the file states the size of dense feed-forward layers beside that of its experts."""
    window_heads: bool = False
    """Whether heads of sliding-window layers have another size, and `rope_freqs` is for the other layers."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Our names of parts -> the names of their tensors, where they differ from those of most architectures."""
    derived: Derived = _nothing
    """A function that returns further keys of the family's `config.json`."""


def _llama(keys: ArchitectureKeys) -> str:
    return "mixtral" if keys.optional_integer("expert_count") else "llama"


def _olmo2(keys: ArchitectureKeys) -> str:
    return "olmo3" if keys.optional_integer("attention.sliding_window") else "olmo2"


def _deepseek2(keys: ArchitectureKeys) -> str:
    if not keys.optional_integer("expert_count"):
        return "youtu"
    return "deepseek_v3" if keys.optional_integer("expert_gating_func") == 2 else "deepseek_v2"


def _llama4(keys: ArchitectureKeys) -> dict[str, Any]:
    layers, window = keys.layers(), keys.integer("attention.sliding_window", 8192, minimum=0)
    # Only the largest model, recognized by its number of experts, has no norms of queries and keys.
    derived: dict[str, Any] = {
        "intermediate_size_mlp": keys.integer("feed_forward_length"),
        "use_qk_norm": keys.optional_integer("expert_count") != 128,
        "attn_scale": keys.number("attention.temperature_scale", 0.1),
        "floor_scale": keys.integer("attention.temperature_length", 8192),
        "moe_layers": [index for index in range(layers) if has_experts(keys.header, index)],
    }
    if window:
        return derived | {"attention_chunk_size": window}
    return derived | {"layer_types": ["full_attention"] * layers, "no_rope_layers": [1] * layers}


def _qwen_experts(keys: ArchitectureKeys) -> dict[str, Any]:
    return {
        "decoder_sparse_step": 1,
        "mlp_only_layers": [index for index in range(keys.layers()) if not has_experts(keys.header, index)],
        "norm_topk_prob": keys.architecture != "qwen2moe",
    }


def _gemma(keys: ArchitectureKeys) -> dict[str, Any]:
    heads, hidden = keys.integer("attention.head_count"), keys.integer("embedding_length")
    # The 27 B models, recognized by their number of layers, do not scale scores by the head size.
    largest = keys.layers() == {"gemma2": 46, "gemma3": 62}[keys.architecture]
    derived: dict[str, Any] = {
        "query_pre_attn_scalar": hidden / heads if largest else keys.integer("attention.key_length", hidden // heads),
        "rope_local_base_freq": keys.number("rope.freq_base_swa", 1e4),
    }
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if keys.has(key):
            derived[key] = keys.number(key) or None
    return derived


def _gemma3n(keys: ArchitectureKeys) -> dict[str, Any]:
    table = keys.header.tensors.get("per_layer_token_embd.weight")
    rank = keys.header.tensors.get("blk.0.laurel_l.weight")
    # The file has cutoffs in standard deviations, minus infinity for none; the configuration has shares.
    cutoffs = keys.numbers("activation_sparsity_scale") or [-math.inf] * keys.layers()
    return {
        "rope_local_base_freq": keys.number("rope.freq_base_swa", 1e4),
        "final_logit_softcapping": keys.number("final_logit_softcapping", 30.0) or None,
        "num_kv_shared_layers": keys.count("attention.shared_kv_layers"),
        "hidden_size_per_layer_input": keys.integer("embedding_length_per_layer_input"),
        "vocab_size_per_layer_input": 1 if table is None else table.rows,
        "altup_num_inputs": keys.integer("altup.num_inputs"),
        "altup_active_idx": keys.count("altup.active_idx"),
        "laurel_rank": 1 if rank is None else rank.rows,
        "activation_sparsity_pattern": [NormalDist().cdf(cutoff) for cutoff in cutoffs],
    }


def _gemma4(keys: ArchitectureKeys) -> dict[str, Any]:
    tensors, experts = keys.header.tensors, keys.optional_integer("expert_count")
    table = tensors.get("per_layer_token_embd.weight")
    full, shared = keys.integer("attention.key_length"), keys.count("attention.shared_kv_layers")
    sliding = keys.integer("attention.key_length_swa", full)
    for key, size in (("rope.dimension_count", full), ("rope.dimension_count_swa", sliding)):
        if keys.integer(key, size) != size:
            raise UnsupportedModelError(
                f"{keys.header.path} has {keys.architecture}.{key} = {keys.integer(key)} for heads of {size} values, "
                "which is not supported: the rotations of a part are stored as a table."
            )
    return {
        "head_dim": sliding,
        "global_head_dim": full,
        "rope_local_base_freq": keys.number("rope.freq_base_swa", 1e4),
        "final_logit_softcapping": keys.number("final_logit_softcapping", 0.0) or None,
        "num_kv_shared_layers": shared,
        # Layers that read the keys and values of others may have tensors that are not used.
        "attention_k_eq_v": any(
            f"blk.{index}.attn_v.weight" not in tensors for index in range(max(0, keys.layers() - shared))
        ),
        "hidden_size_per_layer_input": keys.count("embedding_length_per_layer_input"),
        "vocab_size_per_layer_input": 1 if table is None else table.rows,
        "enable_moe_block": bool(experts),
    }


def _granite(keys: ArchitectureKeys) -> dict[str, Any]:
    hidden, heads = keys.integer("embedding_length"), keys.integer("attention.head_count")
    head_dim = keys.integer("attention.key_length", max(hidden // heads, 1))
    derived = {
        "embedding_multiplier": keys.number("embedding_scale", 1.0) or 1.0,
        "attention_multiplier": keys.number("attention.scale", 0.0) or head_dim**-0.5,
        "residual_multiplier": keys.number("residual_scale", 1.0) or 1.0,
        "logits_scaling": keys.number("logit_scale", 1.0) or 1.0,
        # The file marks a model with RoPE only by the key that its context was extended by training.
        "position_embedding_type": "rope" if keys.flag("rope.scaling.finetuned", True) else "nope",
    }
    if not keys.optional_integer("expert_count"):
        derived["shared_intermediate_size"] = keys.integer("feed_forward_length")
    return derived


def _stablelm(keys: ArchitectureKeys) -> dict[str, Any]:
    # The flag in the file is true even for models that have the second norm.
    return {
        "use_parallel_residual": "blk.0.ffn_norm.weight" not in keys.header.tensors,
        "qk_layernorm": "blk.0.attn_q_norm.weight" in keys.header.tensors,
    }


def _cohere(keys: ArchitectureKeys) -> dict[str, Any]:
    return {
        "logit_scale": keys.number("logit_scale"),
        "use_qk_norm": "blk.0.attn_q_norm.weight" in keys.header.tensors,
    }


def _gptneox(keys: ArchitectureKeys) -> dict[str, Any]:
    return {"use_parallel_residual": keys.flag("use_parallel_residual", True)}


def _olmo(keys: ArchitectureKeys) -> dict[str, Any]:
    return {"clip_qkv": keys.number("attention.clamp_kqv", 0.0) or None}


def _deepseek(keys: ArchitectureKeys) -> dict[str, Any]:
    # Files that split the key-value matrix in two give the sizes of the cached latent under the plain keys.
    head = keys.integer("attention.key_length_mla", keys.integer("attention.key_length"))
    value = keys.integer("attention.value_length_mla", keys.integer("attention.value_length"))
    rotated, groups = keys.integer("rope.dimension_count"), keys.optional_integer("expert_group_count") or 1
    return {
        "q_lora_rank": keys.optional_integer("attention.q_lora_rank"),
        "kv_lora_rank": keys.integer("attention.kv_lora_rank"),
        "qk_nope_head_dim": head - rotated,
        "qk_rope_head_dim": rotated,
        "v_head_dim": value,
        "head_dim": head,
        "num_key_value_heads": keys.integer("attention.head_count"),
        "topk_method": "greedy" if groups == 1 else "group_limited_greedy",
        "n_group": groups,
        "topk_group": keys.optional_integer("expert_group_used_count") or 1,
        "n_shared_experts": keys.integer("expert_shared_count", 0, minimum=0),
        "first_k_dense_replace": keys.integer("leading_dense_block_count", 0, minimum=0),
        "norm_topk_prob": False,
    }


def _routed(keys: ArchitectureKeys) -> dict[str, Any]:
    """The keys of DeepSeek-V3's router, for families with other attention."""
    return {
        "n_group": keys.optional_integer("expert_group_count") or 1,
        "topk_group": keys.optional_integer("expert_group_used_count") or 1,
        "n_shared_experts": keys.integer("expert_shared_count", 0, minimum=0),
        "first_k_dense_replace": keys.integer("leading_dense_block_count", 0, minimum=0),
        "use_qk_norm": "blk.0.attn_q_norm.weight" in keys.header.tensors,
        "routed_scaling_factor": 1.0,
        "norm_topk_prob": False,
    }


def _ernie(keys: ArchitectureKeys) -> dict[str, Any]:
    return {
        "moe_num_shared_experts": keys.integer("expert_shared_count", 0, minimum=0),
        "moe_layer_start_index": keys.integer("leading_dense_block_count", 0, minimum=0),
        "moe_layer_interval": keys.integer("interleave_moe_layer_step", 1),
    }


def _minicpm3(keys: ArchitectureKeys) -> dict[str, Any]:
    head, rotated = keys.integer("attention.key_length"), keys.integer("rope.dimension_count")
    return {
        "q_lora_rank": keys.optional_integer("attention.q_lora_rank"),
        "kv_lora_rank": keys.integer("attention.kv_lora_rank"),
        "qk_nope_head_dim": head - rotated,
        "qk_rope_head_dim": rotated,
        "num_key_value_heads": keys.integer("attention.head_count"),
    }


def _falcon(keys: ArchitectureKeys) -> dict[str, Any]:
    # The converter writes all generations in the order of the newest; only one of them has two norms.
    return {
        "new_decoder_architecture": True,
        "num_kv_heads": keys.integer("attention.head_count_kv"),
        "num_ln_in_parallel_attn": 2 if "blk.0.attn_norm_2.weight" in keys.header.tensors else 1,
    }


def _mpt(keys: ArchitectureKeys) -> dict[str, Any]:
    return {
        "expansion_ratio": max(1, keys.integer("feed_forward_length") // keys.integer("embedding_length")),
        "clip_qkv": keys.number("attention.clamp_kqv", 0.0) or None,
    }


def _starcoder(keys: ArchitectureKeys) -> dict[str, Any]:
    return {"multi_query": keys.integer("attention.head_count_kv") == 1}


def _afmoe(keys: ArchitectureKeys) -> dict[str, Any]:
    return {
        # llama.cpp scales the embeddings of every file.
        "mup_enabled": True,
        "n_shared_experts": keys.integer("expert_shared_count", 0, minimum=0),
        "num_dense_layers": keys.integer("leading_dense_block_count", 0, minimum=0),
    }


def _grok(keys: ArchitectureKeys) -> dict[str, Any]:
    if "blk.0.ffn_up.weight" in keys.header.tensors:
        raise UnsupportedModelError(
            f"{keys.header.path} has a dense feed-forward network beside the experts, as Grok-2 has, which is not "
            "supported."
        )
    # llama.cpp reads the cap of the router's logits and does not apply it either.
    keys.number("router_logit_softcapping", 30.0)
    return {
        "attn_output_multiplier": keys.number("attention.output_scale", 0.08838834764831845),
        "embedding_multiplier_scale": keys.number("embedding_scale", 78.38367176906169),
        "output_multiplier_scale": keys.number("logit_scale", 0.5773502691896257),
        "max_attn_value": keys.number("attn_logit_softcapping", 30.0) or None,
    }


_GROK_NORMS = {"attention_output_norm": "attn_output_norm", "mlp_output_norm": "layer_output_norm"}
# The norm before attention of models with two: the other one has the usual name.
_FALCON_NORMS = {"input_layernorm": "attn_norm_2", "post_attention_layernorm": "attn_norm"}

# `paired`: some families are trained with this row order; for others llama.cpp's converter reorders the rows.
ARCHITECTURES: dict[str, Architecture] = {
    "afmoe": Architecture("afmoe", window=True, dense_size=True, derived=_afmoe),
    "apertus": Architecture("apertus"),
    "arcee": Architecture("arcee", paired=True),
    "bloom": Architecture("bloom"),
    "chatglm": Architecture("glm", paired=True),
    "cohere2": Architecture("cohere2", paired=True, window=True, derived=_cohere),
    "command-r": Architecture("cohere", paired=True, derived=_cohere),
    "dbrx": Architecture("dbrx", names={"post_attention_layernorm": "attn_output_norm"}, derived=_olmo),
    "deepseek2": Architecture(_deepseek2, paired=True, dense_size=True, derived=_deepseek),
    "dots1": Architecture("dots1", dense_size=True, derived=_routed),
    "ernie4_5": Architecture("ernie4_5", paired=True),
    "ernie4_5-moe": Architecture("ernie4_5_moe", paired=True, dense_size=True, derived=_ernie),
    "exaone": Architecture("exaone"),
    "exaone-moe": Architecture("exaone_moe", window=True, dense_size=True, derived=_routed),
    "exaone4": Architecture("exaone4", window=True),
    "falcon": Architecture("falcon", names=_FALCON_NORMS, derived=_falcon),
    "gemma": Architecture("gemma"),
    "gemma2": Architecture("gemma2", window=True, derived=_gemma),
    "gemma3": Architecture("gemma3_text", window=True, derived=_gemma),
    "gemma3n": Architecture("gemma3n_text", window=True, derived=_gemma3n),
    "gemma4": Architecture("gemma4_text", window=True, dense_size=True, window_heads=True, derived=_gemma4),
    "glm4": Architecture("glm4", paired=True),
    "glm4moe": Architecture("glm4_moe", dense_size=True, derived=_routed),
    "gpt-oss": Architecture("gpt_oss", window=True),
    "gpt2": Architecture("gpt2"),
    "gptneox": Architecture("gpt_neox", derived=_gptneox),
    # All Granite models without recurrent layers have this form, whatever their architecture's name.
    "granite": Architecture("granitemoehybrid", paired=True, derived=_granite),
    "granitemoe": Architecture("granitemoehybrid", paired=True, derived=_granite),
    "grok": Architecture("grok-1", names=_GROK_NORMS, derived=_grok),
    "jais2": Architecture("jais2"),
    # The converter multiplies the base of the rotations by Hunyuan's fixed factor.
    "hunyuan-dense": Architecture("hunyuan_v1_dense"),
    "hunyuan-moe": Architecture("hunyuan_v1_moe"),
    "llama": Architecture(_llama, paired=True),
    "llama4": Architecture("llama4_text", paired=True, derived=_llama4),
    "minicpm3": Architecture("minicpm3", derived=_minicpm3),
    "minimax-m2": Architecture("minimax_m2"),
    "mistral3": Architecture("ministral3", paired=True),
    "mpt": Architecture("mpt", derived=_mpt),
    "nemotron": Architecture("nemotron"),
    "olmo": Architecture("olmo", paired=True, derived=_olmo),
    "olmo2": Architecture(_olmo2, window=True),
    "olmoe": Architecture("olmoe", derived=_olmo),
    "phi2": Architecture("phi"),
    "phi3": Architecture("phi3", window=True),
    "qwen2": Architecture("qwen2"),
    "qwen2moe": Architecture("qwen2_moe", dense_size=True, derived=_qwen_experts),
    "qwen2vl": Architecture("qwen2_vl_text"),
    "qwen3": Architecture("qwen3"),
    "qwen3moe": Architecture("qwen3_moe", dense_size=True, derived=_qwen_experts),
    "qwen3vl": Architecture("qwen3_vl_text"),
    "qwen3vlmoe": Architecture("qwen3_vl_moe_text", dense_size=True, derived=_qwen_experts),
    "seed_oss": Architecture("seed_oss"),
    "smollm3": Architecture("smollm3", paired=True),
    "stablelm": Architecture("stablelm", derived=_stablelm),
    "starcoder": Architecture("gpt_bigcode", derived=_starcoder),
    "starcoder2": Architecture("starcoder2"),
}


def architecture_of(header: GGUFHeader) -> tuple[Architecture, ArchitectureKeys]:
    """The entry of `ARCHITECTURES` for a file, and its keys.

    Raises:
        UnsupportedModelError: the architecture is unknown, or uses something that this program cannot run.
    """
    refuse_companion(header.path, header.metadata)
    keys = ArchitectureKeys(header, header.get_str("general.architecture"))
    refuse_unsupported_gguf(keys)
    if keys.architecture not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"{header.path} describes a model of architecture {keys.architecture!r}, which is not supported; "
            f"supported are {', '.join(sorted(ARCHITECTURES))}."
        )
    return ARCHITECTURES[keys.architecture], keys


def has_experts(header: GGUFHeader, layer: int) -> bool:
    """Whether the layer has a router."""
    return f"blk.{layer}.ffn_gate_inp.weight" in header.tensors
