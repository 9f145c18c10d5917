"""Families with recurrent layers; same form as `parity_cases`."""

from __future__ import annotations

from typing import Any

# Large enough to matter.
_EPS = {"rms_norm_eps": 3e-4}
_LAYER_EPS = {"layer_norm_epsilon": 3e-4}
_MAMBA2 = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 6,
    "mamba_n_groups": 2,
    "mamba_expand": 2,
    "mamba_chunk_size": 16,
}
_MAMBA = {**_LAYER_EPS, "state_size": 6, "time_step_rank": 5}
_LATENT = {
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 16,
    "num_experts_per_tok": 2,
}
_NEMOTRON = {
    **_LAYER_EPS,
    "layers_block_type": ["linear_attention", "mlp", "full_attention", "linear_attention"],
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "ssm_state_size": 6,
    "n_groups": 2,
    "head_dim": 8,
    # transformers clamps the steps of a prompt by this number, and those of single tokens not at all.
    "time_step_min": 1e-30,
}
_NEMOTRON3 = {
    **_NEMOTRON,
    "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"],
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 4,
    "topk_group": 2,
    "moe_intermediate_size": 24,
    "moe_shared_expert_intermediate_size": 20,
    "routed_scaling_factor": 1.5,
}

_EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
DELTA = {
    **_EPS,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 6,
}
# Sizes whose shares are multiples of 64, as transformers rounds those of its states.
_XLSTM = {
    "hidden_size": 128,
    "num_heads": 4,
    "norm_eps": 3e-4,
    "eps": 1e-2,
    "gate_soft_cap": 3.0,
    "output_logit_soft_cap": 4.0,
    "ffn_proj_factor": 0.7,
}
# Few blocks, and heads enough that few have equal scores.
INDEXED = {
    **DELTA,
    **_EXPERTS,
    "layer_types": ["linear_attention", "indexed_attention", "linear_attention"],
    "shared_expert_intermediate_size": 20,
    "hc_count": 3,
    "hc_lowrank": 10,
    "indexer_n_heads": 8,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 11,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
}
CONV = {"norm_eps": 3e-4, "layer_types": ["conv", "full_attention", "conv"], "tie_word_embeddings": True}

RECURRENT: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba": ("mamba", _MAMBA),
    "falcon mamba": ("falcon_mamba", {**_MAMBA, "mixer_rms_eps": 1e-3, "use_bias": True}),
    "mamba 2": ("mamba2", {**_LAYER_EPS, "num_heads": 8, "head_dim": 8, "state_size": 6, "n_groups": 2}),
    "granite 4": (
        "granitemoehybrid",
        {
            **_EPS,
            **_MAMBA2,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "num_local_experts": 6,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 20,
            "embedding_multiplier": 6.0,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.4,
            "logits_scaling": 3.0,
            "mamba_proj_bias": True,
        },
    ),
    "granite 4, dense": (
        "granitemoehybrid",
        {
            **_EPS,
            **_MAMBA2,
            "mamba_n_groups": 1,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "shared_intermediate_size": 20,
            "tie_word_embeddings": True,
        },
    ),
    "bamba": ("bamba", {**_EPS, **_MAMBA2, "attn_layer_indices": [1]}),
    "falcon h1": (
        "falcon_h1",
        {
            **_EPS,
            **_MAMBA2,
            "mamba_d_ssm": 64,
            "embedding_multiplier": 3.0,
            "lm_head_multiplier": 0.3,
            "key_multiplier": 0.6,
            "attention_in_multiplier": 0.7,
            "attention_out_multiplier": 1.2,
            "ssm_in_multiplier": 1.3,
            "ssm_out_multiplier": 0.8,
            "mlp_multipliers": [0.9, 1.1],
            "ssm_multipliers": [0.6, 0.7, 0.8, 0.9, 1.1],
        },
    ),
    "falcon h1, normalized": (
        "falcon_h1",
        {**_EPS, **_MAMBA2, "mamba_d_ssm": 64, "mamba_rms_norm": True, "attention_bias": True, "mlp_bias": True},
    ),
    "nemotron h": ("nemotron_h", _NEMOTRON),
    "nemotron 3": ("nemotron_h", _NEMOTRON3),
    "nemotron 3, latent": ("nemotron_h", {**_NEMOTRON3, "moe_latent_size": 12}),
    "jamba": (
        "jamba",
        {
            **_EPS,
            "mamba_d_state": 6,
            "mamba_dt_rank": 5,
            "attn_layer_period": 3,
            "attn_layer_offset": 1,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
        },
    ),
    "recurrent gemma": (
        "recurrent_gemma",
        {**_EPS, "lru_width": 32, "attention_window_size": 6, "logits_soft_cap": 5.0, "num_key_value_heads": 1},
    ),
    "rwkv 4": ("rwkv", {}),
    "rwkv 4, tied": ("rwkv", {"intermediate_size": None, "tie_word_embeddings": True}),
    "xlstm": ("xlstm", _XLSTM),
    "xlstm, narrow values": ("xlstm", {**_XLSTM, "num_blocks": 2, "v_dim_factor": 0.5}),
    "kimi linear": (
        "kimi_linear",
        {
            **_EPS,
            **_LATENT,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "linear_head_dim": 8,
            "linear_num_heads": 4,
            "num_experts": 8,
            "num_expert_group": 4,
            "topk_group": 2,
        },
    ),
    "ling 3": (
        "bailing_hybrid",
        {
            **_EPS,
            **_LATENT,
            "q_lora_rank": 12,
            "head_dim": 8,
            "num_experts": 8,
            "n_group": 4,
            "topk_group": 2,
            "first_k_dense_replace": 1,
            "layer_group_size": 3,
        },
    ),
    "qwen 3.5": ("qwen3_5_text", DELTA),
    "qwen 3.5, experts": ("qwen3_5_moe_text", {**DELTA, **_EXPERTS, "shared_expert_intermediate_size": 20}),
    "qwen 3 next": (
        "qwen3_next",
        {**DELTA, **_EXPERTS, "shared_expert_intermediate_size": 20, "mlp_only_layers": [1]},
    ),
    "qwen 4": (
        "qwen4_exp_text",
        {
            **INDEXED,
            "ple_layer_ids": [1, 3],
            "ple_embed_dim": 24,
            "ple_conv_kernel_size": 3,
            "heads_per_ngram": 2,
            "ngram_vocab_size_base": 50,
            "make_ngram_vocab_size_divisible_by": 16,
            "split_ngram_parts": 3,
        },
    ),
    "qwen 4, no n-grams": ("qwen4_exp_text", {**INDEXED, "output_gate_type": "sigmoid"}),
    "lara mini": (
        "lara_mini",
        {**DELTA, **_EXPERTS, "shared_expert_intermediate_size": 20, "sliding_window": 6}
        | {"layer_types": ["linear_attention", "sliding_attention", "full_attention"]},
    ),
    "olmo hybrid": (
        "olmo_hybrid",
        {**DELTA, "linear_value_head_dim": 4, "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}},
    ),
    "olmo hybrid, no rope": (
        "olmo_hybrid",
        {**_EPS, "num_hidden_layers": 2, "linear_allow_neg_eigval": False, "rope_parameters": None},
    ),
    "lfm 2": ("lfm2", {**CONV, "conv_bias": True, "block_multiple_of": 24, "block_ffn_dim_multiplier": 1.2}),
    "lfm 2, experts": ("lfm2_moe", {**CONV, **_EXPERTS, "num_dense_layers": 1, "routed_scaling_factor": 1.5}),
    "lfm 3": (
        "lfm3",
        {**CONV, "layer_types": ["conv", "sliding_attention", "full_attention"], "head_dim": 16, "sliding_window": 6},
    ),
    "lfm 3, plain": (
        "lfm3",
        {**CONV, "head_dim": 8, "conv_L_cache": 2, "use_sandwich_norm": False, "use_attention_gate": False},
    ),
}
