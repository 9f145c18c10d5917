"""Configuration keys of dense architectures, derived from the metadata and tensors of a GGUF file.

Each function returns keys of the family's `config.json`: facts that a GGUF file omits or has under other names.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

from llmcli.checkpoint.families.layer_rules import FULL
from llmcli.checkpoint.gguf.keys import ArchitectureKeys
from llmcli.errors import UnsupportedModelError


def gemma_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Gemma 2 and 3: the attention scale, caps, and the RoPE base of layers with a window."""
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


def gemma3n_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Gemma 3n: sizes of its tables and streams, and how sparse activations are."""
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


def gemma4_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Gemma 4: sizes that differ between layers with and without a window, and what layers share."""
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


def granite_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Granite: its four factors."""
    hidden, heads = keys.integer("embedding_length"), keys.integer("attention.head_count")
    head_dim = keys.integer("attention.key_length", max(hidden // heads, 1))
    derived: dict[str, Any] = {
        "embedding_multiplier": keys.number("embedding_scale", 1.0) or 1.0,
        "attention_multiplier": keys.number("attention.scale", 0.0) or head_dim**-0.5,
        "residual_multiplier": keys.number("residual_scale", 1.0) or 1.0,
        "logits_scaling": keys.number("logit_scale", 1.0) or 1.0,
        # The file marks a model with RoPE only by the key that its context was extended by training.
        "position_embedding_type": "rope" if keys.flag("rope.scaling.finetuned", True) else "nope",
    }
    if keys.architecture in ("granite", "granitemoe"):
        derived["layer_types"] = [FULL] * keys.layers()
    if not keys.optional_integer("expert_count"):
        derived["shared_intermediate_size"] = keys.integer("feed_forward_length")
    return derived


def granite_swa_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Granite with windows: its factors, and which layers rotate."""
    theta, rotates = keys.number("rope.freq_base", 1e4), keys.integers("attention.rope_pattern", 1, minimum=0)
    return granite_keys(keys) | {
        "layer_rope_theta": [theta if on else 0.0 for on in rotates],
        "intermediate_size": keys.integer("feed_forward_length"),
        # The tensors of gate and up are one.
        "shared_intermediate_size": keys.count("expert_shared_feed_forward_length"),
    }


def stablelm_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """StableLM: parallel blocks and norms of heads, as the tensors show."""
    # The flag in the file is true even for models that have the second norm.
    return {
        "use_parallel_residual": "blk.0.ffn_norm.weight" not in keys.header.tensors,
        "qk_layernorm": "blk.0.attn_q_norm.weight" in keys.header.tensors,
    }


def cohere_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Cohere: the factor on the logits, and norms of heads."""
    return {
        "logit_scale": keys.number("logit_scale"),
        "use_qk_norm": "blk.0.attn_q_norm.weight" in keys.header.tensors,
    }


def gptneox_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """GPT-NeoX: whether blocks are parallel."""
    return {"use_parallel_residual": keys.flag("use_parallel_residual", True)}


def olmo_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """OLMo: the limit of queries, keys and values."""
    return {"clip_qkv": keys.number("attention.clamp_kqv", 0.0) or None}


def minicpm3_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """MiniCPM3: sizes of latent attention."""
    head, rotated = keys.integer("attention.key_length"), keys.integer("rope.dimension_count")
    return {
        "q_lora_rank": keys.optional_integer("attention.q_lora_rank"),
        "kv_lora_rank": keys.integer("attention.kv_lora_rank"),
        "qk_nope_head_dim": head - rotated,
        "qk_rope_head_dim": rotated,
        "num_key_value_heads": keys.integer("attention.head_count"),
    }


def falcon_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Falcon: the order of rows and the number of norms."""
    # The converter writes all generations in the order of the newest; only one of them has two norms.
    return {
        "new_decoder_architecture": True,
        "num_kv_heads": keys.integer("attention.head_count_kv"),
        "num_ln_in_parallel_attn": 2 if "blk.0.attn_norm_2.weight" in keys.header.tensors else 1,
    }


def mpt_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """MPT: the width of its feed-forward networks, and the limit of queries, keys and values."""
    return {
        "expansion_ratio": max(1, keys.integer("feed_forward_length") // keys.integer("embedding_length")),
        "clip_qkv": keys.number("attention.clamp_kqv", 0.0) or None,
    }


def starcoder_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """StarCoder: whether all heads share one key-value head."""
    return {"multi_query": keys.integer("attention.head_count_kv") == 1}


def bitnet_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """BitNet: the activation."""
    # The first BitNet models have another activation than the one that Microsoft published.
    return {"hidden_act": "silu" if keys.architecture == "bitnet" else "relu2"}


def muse_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Muse Glimmer: factors on scores and logits."""
    # The factor on the scores is the weight of the queries' norm.
    return {
        "qk_scale_factor": 1.0,
        "output_multiplier": keys.number("logit_scale"),
        "final_logit_softcapping": keys.number("final_logit_softcapping", 20.0),
    }
