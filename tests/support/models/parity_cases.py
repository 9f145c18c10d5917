"""Model families and variants: for each a `model_type` and changes to the tiny configuration."""

from __future__ import annotations

from typing import Any

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROPE = {"rope_theta": 1e4, "rope_type": "default"}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.0, 3.0, 5.0],
}
MULTIPLIERS = {
    "embedding_multiplier": 6.0,
    "attention_multiplier": 0.2,
    "residual_multiplier": 0.4,
    "logits_scaling": 3.0,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
# A recurrent block type that is never built, but whose sizes are checked.
NO_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 4}
LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    **EXPERTS,
}

GEMMA4 = {
    "head_dim": 8,
    "global_head_dim": 16,
    "sliding_window": 6,
    "final_logit_softcapping": 2.0,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "hidden_size_per_layer_input": 0,
    "tie_word_embeddings": True,
}

DENSE: dict[str, tuple[str, dict[str, Any]]] = {
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
    "llama, dynamic": (
        "llama",
        {
            "max_position_embeddings": 32,
            "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4},
        },
    ),
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
    "ministral, mixed windows": (
        "ministral",
        {
            "sliding_window": 6,
            "head_dim": 8,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        },
    ),
    "ministral 3": (
        "ministral3",
        {
            "head_dim": 8,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e6,
                "factor": 16.0,
                "original_max_position_embeddings": 16,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.1,
            },
        },
    ),
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
    "gemma": ("gemma", {"head_dim": 16, "num_key_value_heads": 1}),
    "gemma 2": (
        "gemma2",
        {
            "head_dim": 8,
            "sliding_window": 6,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 2.0,
        },
    ),
    "gemma 3, linear on full layers": (
        "gemma3_text",
        {
            "head_dim": 8,
            "sliding_window": 6,
            "query_pre_attn_scalar": 24,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": ROPE,
            },
        },
    ),
    "gemma 3, capped logits": (
        "gemma3_text",
        {
            "head_dim": 8,
            "sliding_window": 6,
            "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "final_logit_softcapping": 2.0,
        },
    ),
    "gemma 3n": (
        "gemma3n_text",
        {
            "num_hidden_layers": 4,
            "head_dim": 8,
            "intermediate_size": [48, 40, 48, 48],
            "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 2,
            "hidden_size_per_layer_input": 16,
            "vocab_size_per_layer_input": 200,
            "laurel_rank": 8,
            "activation_sparsity_pattern": [0.8, 0.6, 0.0, 0.0],
            "final_logit_softcapping": 2.0,
            "tie_word_embeddings": True,
        },
    ),
    "gemma 4, small": (
        "gemma4_text",
        {
            **GEMMA4,
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
            "hidden_size_per_layer_input": 16,
            "vocab_size_per_layer_input": 261,
        },
    ),
    "gemma 4, values that are keys": (
        "gemma4_unified_text",
        {**GEMMA4, "attention_k_eq_v": True, "num_global_key_value_heads": 1, "final_logit_softcapping": None},
    ),
    "phi-2": ("phi", {"num_key_value_heads": 4}),
    "phi-3, window": ("phi3", {"sliding_window": 7}),
    "phi-3, longrope, long": (
        "phi3",
        {"original_max_position_embeddings": 24, "rope_parameters": {**LONGROPE, "partial_rotary_factor": 1.0}},
    ),
    "phi-3, longrope, short": (
        "phi3",
        {"original_max_position_embeddings": 96, "rope_parameters": {**LONGROPE, "partial_rotary_factor": 1.0}},
    ),
    "phi-4-mini, partial longrope, tied": (
        "phi3",
        {
            "head_dim": 8,
            "tie_word_embeddings": True,
            "original_max_position_embeddings": 24,
            "rope_parameters": {
                **LONGROPE,
                "short_factor": [1.0, 1.1, 1.2],
                "long_factor": [1.0, 3.0, 5.0],
                "partial_rotary_factor": 0.75,
            },
        },
    ),
    "smollm 3, layers without positions": ("smollm3", {"no_rope_layers": [1, 0, 1]}),
    "smollm 3, windows": (
        "smollm3",
        {"no_rope_layers": [1, 0, 1], "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 0},
    ),
    "olmo": ("olmo", {"clip_qkv": 0.5}),
    "olmo 2": ("olmo2", {}),
    "olmo 3, yarn on full layers": (
        "olmo3",
        {
            "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "rope_theta": 5e5,
                    "original_max_position_embeddings": 16,
                    "attention_factor": 1.2,
                    "beta_fast": 32.0,
                    "beta_slow": 1.0,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 5e5},
            },
        },
    ),
    "granite": ("granite", MULTIPLIERS),
    "stablelm": ("stablelm", {"use_qkv_bias": True}),
    "stablelm, parallel, normed heads": ("stablelm", {"use_parallel_residual": True, "qk_layernorm": True}),
    "cohere": ("cohere", {}),
    "cohere, normed heads": ("cohere", {"use_qk_norm": True, "logit_scale": 0.3}),
    "cohere 2": (
        "cohere2",
        {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "gpt-2": ("gpt2", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128}),
    "pythia, parallel": (
        "gpt_neox",
        {"num_key_value_heads": None, "rope_parameters": {**ROPE, "partial_rotary_factor": 0.5}},
    ),
    "gpt-neox, sequential": ("gpt_neox", {"num_key_value_heads": None, "use_parallel_residual": False}),
    "starcoder 2, window": ("starcoder2", {"sliding_window": 7}),
    "nemotron": ("nemotron", {}),
    "arcee": ("arcee", {}),
    "glm 4": ("glm4", {"head_dim": 16, "attention_bias": True}),
    "exaone 4, mixed": (
        "exaone4",
        {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "exaone 4, no window": ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 3}),
}

EXPERT_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("mixtral", {"num_local_experts": 4}),
    "mixtral, window": ("mixtral", {"num_local_experts": 4, "sliding_window": 7}),
    "qwen2-moe": (
        "qwen2_moe",
        {"num_experts": 6, "shared_expert_intermediate_size": 40, **EXPERTS},
    ),
    "qwen2-moe, windows, some layers dense": (
        "qwen2_moe",
        {
            "num_experts": 6,
            "shared_expert_intermediate_size": 40,
            "decoder_sparse_step": 2,
            "use_sliding_window": True,
            "sliding_window": 6,
            "max_window_layers": 2,
            "norm_topk_prob": True,
            **EXPERTS,
        },
    ),
    "qwen3-moe": ("qwen3_moe", {"num_experts": 8, "norm_topk_prob": True, "mlp_only_layers": [1], **EXPERTS}),
    "qwen3-moe, window": (
        "qwen3_moe",
        {"num_experts": 8, "decoder_sparse_step": 2, "use_sliding_window": True, "sliding_window": 6, **EXPERTS},
    ),
    "olmoe": ("olmoe", {"num_experts": 8, "num_experts_per_tok": 3, "clip_qkv": 0.8, "norm_topk_prob": False}),
    "granite, experts": ("granitemoe", {"num_local_experts": 6, "num_experts_per_tok": 2, **MULTIPLIERS}),
    "granite, shared expert": (
        "granitemoeshared",
        {"num_local_experts": 6, "num_experts_per_tok": 2, "shared_intermediate_size": 20, **MULTIPLIERS},
    ),
    "granite hybrid, attention only": (
        "granitemoehybrid",
        {
            "num_local_experts": 6,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 20,
            "layer_types": ["attention"] * 3,
            "position_embedding_type": "rope",
            **NO_MAMBA,
            **MULTIPLIERS,
        },
    ),
    "granite hybrid, no experts, no positions": (
        "granitemoehybrid",
        {
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "shared_intermediate_size": 20,
            "layer_types": ["attention"] * 3,
            **NO_MAMBA,
            **MULTIPLIERS,
        },
    ),
    "deepseek v2, groups, yarn": (
        "deepseek_v2",
        {
            **LATENT,
            "first_k_dense_replace": 1,
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 1.5,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
                "mscale": 0.707,
                "mscale_all_dim": 0.9,
                "beta_fast": 32,
                "beta_slow": 1,
            },
        },
    ),
    "deepseek v2 lite": ("deepseek_v2", {**LATENT, "q_lora_rank": None, "topk_method": "greedy"}),
    "deepseek v3": (
        "deepseek_v3",
        {
            **LATENT,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "n_group": 4,
            "topk_group": 2,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "beta_fast": 32,
                "beta_slow": 1,
            },
        },
    ),
    "gemma 4, experts": (
        "gemma4_text",
        {
            **GEMMA4,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "enable_moe_block": True,
            "num_experts": 6,
            "top_k_experts": 2,
            "moe_intermediate_size": 24,
        },
    ),
    "gpt-oss": (
        "gpt_oss",
        {
            "num_local_experts": 6,
            "num_experts_per_tok": 2,
            "head_dim": 8,
            "sliding_window": 6,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1.5e5,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
                "truncate": False,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
            },
        },
    ),
    "llama 4": (
        "llama4_text",
        {
            "num_local_experts": 4,
            "intermediate_size_mlp": 40,
            "head_dim": 8,
            "interleave_moe_layer_step": 2,
            "attention_chunk_size": 8,
            "no_rope_layers": [1, 1, 0],
            "floor_scale": 4,
        },
    ),
    "llama 4, no norms of heads": (
        "llama4_text",
        {
            "num_local_experts": 4,
            "intermediate_size_mlp": 40,
            "head_dim": 8,
            "use_qk_norm": False,
            "attention_chunk_size": 8,
            "no_rope_layers": [1, 0, 1],
            "rope_parameters": {
                **LLAMA3,
                "rope_theta": 5e5,
                "low_freq_factor": 1.0,
                "high_freq_factor": 1.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
}

CASES = {**DENSE, **EXPERT_MODELS}

SPANNING = (
    "smollm", "mistral, no window, wide heads", "gemma 2", "gpt-2", "cohere, normed heads", "gpt-oss", "llama 4",
)  # fmt: skip
"""Together: windows, chunks, sinks, softcaps, all norms and activations, experts of all kinds, odd sizes."""
