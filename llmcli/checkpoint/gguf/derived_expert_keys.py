"""Configuration keys of mixtures of experts, derived from the metadata and tensors of a GGUF file.

Each function returns keys of the family's `config.json`: facts that a GGUF file omits or has under other names.
"""

from __future__ import annotations

from typing import Any

from llmcli.checkpoint.families.layer_rules import FULL, SLIDING
from llmcli.checkpoint.gguf.header import GGUFHeader
from llmcli.checkpoint.gguf.keys import ArchitectureKeys
from llmcli.errors import UnsupportedModelError


def has_experts(header: GGUFHeader, layer: int) -> bool:
    """Whether the layer has a router."""
    return f"blk.{layer}.ffn_gate_inp.weight" in header.tensors


def llama4_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Llama 4: sizes, temperature and chunks that the file states under other names or not at all."""
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


def qwen_experts_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Qwen 2 and 3: which layers have experts, and whether their weights are normalized."""
    return {
        "decoder_sparse_step": 1,
        "mlp_only_layers": [index for index in range(keys.layers()) if not has_experts(keys.header, index)],
        "norm_topk_prob": keys.architecture != "qwen2moe",
    }


def deepseek_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """DeepSeek: sizes of latent attention, groups of experts, dense layers."""
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


def index_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """DeepSeek-V3.2 and GLM-5: like DeepSeek-V3, and the index of keys, which only some layers may have."""
    # A list of 1 for layers with an index of their own, missing in older files.
    keys.has("attention.indexer.types")
    own = [f"blk.{index}.indexer.attn_k.weight" in keys.header.tensors for index in range(keys.layers())]
    return deepseek_keys(keys) | {
        "index_n_heads": keys.integer("attention.indexer.head_count"),
        "index_head_dim": keys.integer("attention.indexer.key_length"),
        "index_topk": keys.integer("attention.indexer.top_k"),
        "indexer_types": ["full" if has else "shared" for has in own],
    }


def deepseek4_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """DeepSeek-V4: tokens of each layer's blocks, the index, hyper-connections, and limits of activations."""
    limits = {*keys.numbers("swiglu_clamp_exp"), *keys.numbers("swiglu_clamp_shexp")}
    if len(limits) != 1:
        raise UnsupportedModelError(
            f"{keys.header.path} does not state one swiglu_clamp_exp for the experts of all layers, which is not "
            "supported."
        )
    if (shared := keys.integer("expert_shared_count", 1)) != 1:
        raise UnsupportedModelError(f"{keys.header.path} has {shared} shared experts; 1 is supported.")
    return {
        "num_key_value_heads": 1,
        "q_lora_rank": keys.integer("attention.q_lora_rank"),
        "qk_rope_head_dim": keys.integer("rope.dimension_count"),
        "rope_theta": keys.number("rope.freq_base", 1e4),
        "compress_rope_theta": keys.number("attention.compress_rope_freq_base"),
        "compress_ratios": list(keys.integers("attention.compress_ratios", minimum=0)),
        "o_groups": keys.integer("attention.output_group_count"),
        "o_lora_rank": keys.integer("attention.output_lora_rank"),
        "index_n_heads": keys.integer("attention.indexer.head_count"),
        "index_head_dim": keys.integer("attention.indexer.key_length"),
        "index_topk": keys.integer("attention.indexer.top_k"),
        "hc_mult": keys.integer("hyper_connection.count"),
        "hc_sinkhorn_iters": keys.integer("hyper_connection.sinkhorn_iterations"),
        "hc_eps": keys.number("hyper_connection.epsilon"),
        "num_hash_layers": keys.integer("hash_layer_count", 0, minimum=0),
        "swiglu_limit": limits.pop(),
    }


def mistral4_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Mistral 4: like DeepSeek; the weights of experts are always normalized."""
    # The router's weights are always divided by their sum; the files say so too.
    return deepseek_keys(keys) | {"norm_topk_prob": True}


def routed_keys(keys: ArchitectureKeys) -> dict[str, Any]:
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


def ernie_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Ernie 4.5: shared experts, and which layers have experts."""
    return {
        "moe_num_shared_experts": keys.integer("expert_shared_count", 0, minimum=0),
        "moe_layer_start_index": keys.integer("leading_dense_block_count", 0, minimum=0),
        "moe_layer_interval": keys.integer("interleave_moe_layer_step", 1),
    }


def afmoe_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """AFMoE: shared experts and dense layers."""
    return {
        # llama.cpp scales the embeddings of every file.
        "mup_enabled": True,
        "n_shared_experts": keys.integer("expert_shared_count", 0, minimum=0),
        "num_dense_layers": keys.integer("leading_dense_block_count", 0, minimum=0),
    }


def sparse_layers(keys: ArchitectureKeys) -> list[str]:
    """The `mlp_layer_types` that the tensors show."""
    return ["sparse" if has_experts(keys.header, index) else "dense" for index in range(keys.layers())]


def mellum_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Mellum: which layers have experts, and the RoPE base of layers with a window."""
    return {
        "mlp_layer_types": sparse_layers(keys),
        "norm_topk_prob": True,
        "rope_local_base_freq": keys.number("rope.freq_base_swa", keys.number("rope.freq_base", 1e4)),
    }


def mimo_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """MiMo-V2: which layers have experts, the window without the query itself, and the factor on the values."""
    kv_heads = keys.usual("attention.head_count_kv")
    return {
        "mlp_layer_types": sparse_layers(keys),
        "sliding_window_size": keys.integer("attention.sliding_window"),
        "v_head_dim": keys.integer("attention.value_length"),
        # `gguf.config` replaces these by those of each layer.
        "num_key_value_heads": kv_heads,
        "swa_num_key_value_heads": kv_heads,
        "attention_value_scale": keys.number("attention.value_scale", 0.0) or 1.0,
        "rope_local_base_freq": keys.number("rope.freq_base_swa", keys.number("rope.freq_base", 1e4)),
        "norm_topk_prob": True,
    }


def hy3_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Hy3: which layers have experts, and the number of shared experts."""
    single = keys.integer("expert_feed_forward_length")
    return {
        "mlp_layer_types": sparse_layers(keys),
        "num_shared_experts": keys.count("expert_shared_feed_forward_length") // single,
        "router_scaling_factor": 1.0,
    }


def laguna_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Laguna: which layers have experts, windows and what kind of gate."""
    heads, size = keys.integers("attention.head_count")[0], keys.integer("attention.key_length")
    gate = keys.header.tensors.get("blk.0.attn_gate.weight")
    derived: dict[str, Any] = {
        "mlp_layer_types": sparse_layers(keys),
        "gating": "per-element" if gate is not None and gate.rows == heads * size else "per-head",
        "moe_router_logit_softcapping": keys.number("router_logit_softcapping", 0.0),
        "rope_local_base_freq": keys.number("rope.freq_base_swa", keys.number("rope.freq_base", 1e4)),
    }
    if keys.optional_integer("attention.sliding_window") and not keys.has("attention.sliding_window_pattern"):
        # llama.cpp's rule: full attention in every fourth layer, beginning with the first.
        derived["layer_types"] = [SLIDING if index % 4 else FULL for index in range(keys.layers())]
    return derived


def cohere_experts_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Cohere with experts: its dense layers first, the router and the shared experts."""
    single, dense = keys.integer("expert_feed_forward_length"), keys.header.tensors.get("blk.0.ffn_gate.weight")
    rms = keys.has("attention.layer_norm_rms_epsilon")
    eps = keys.number("attention.layer_norm_rms_epsilon" if rms else "attention.layer_norm_epsilon")
    return {
        "logit_scale": keys.number("logit_scale"),
        "mlp_layer_types": sparse_layers(keys),
        "intermediate_size": single,
        "prefix_dense_intermediate_size": keys.integer("feed_forward_length") if dense is None else dense.rows,
        # Dense layers always have RoPE.
        "prefix_dense_sliding_window_pattern": 1,
        "num_shared_experts": keys.count("expert_shared_feed_forward_length") // single,
        "shared_expert_combination_strategy": "average",
        "expert_selection_fn": "sigmoid" if keys.integer("expert_gating_func", 2, minimum=0) == 2 else "softmax",
        # The epsilon that is stated decides which norm it is.
        "rms_norm_eps": eps,
        "norm_type": "rms" if rms else "layer",
    }


def grok_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Grok: factors and caps."""
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
