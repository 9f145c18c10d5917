"""Families and variants beyond those of `parity_cases`, which spans all options; same form."""

from __future__ import annotations

from typing import Any

# Large enough to matter.
EPS = {"rms_norm_eps": 3e-4}
ROPE = {"rope_theta": 1e4, "rope_type": "default"}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
ROUTED = {**EXPERTS, "n_routed_experts": 8, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 1.5}
LATENT = {
    **EPS,
    "kv_lora_rank": 16,
    "q_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "num_key_value_heads": 4,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "beta_fast": 32,
    "beta_slow": 1,
}
ALPHA = {"rope_type": "dynamic", "rope_theta": 1e4, "alpha": 50.0, "factor": 1.0}
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4}
INDEX = {"index_topk": 8, "index_head_dim": 8, "index_n_heads": 8}
BLOCKS = {
    **EPS,
    "layer_types": ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"],
    "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
    "mlp_layer_types": ["hash_moe", "moe", "moe"],
    "num_key_value_heads": 1,
    "head_dim": 16,
    "partial_rotary_factor": 0.5,
    "q_lora_rank": 12,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "sliding_window": 6,
    "o_groups": 2,
    "o_lora_rank": 6,
    # With few heads, blocks have equal scores, and any of these may be chosen.
    "index_n_heads": 16,
    "index_head_dim": 12,
    "index_topk": 3,
    "hc_mult": 3,
    "hc_sinkhorn_iters": 5,
    "swiglu_limit": 0.3,
}
MULTIPLIERS = {
    "embedding_multiplier": 6.0,
    "attention_multiplier": 0.2,
    "residual_multiplier": 0.4,
    "logits_scaling": 3.0,
}
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
WINDOWS = {"sliding_window": 6, "layer_types": MIXED}

GPT2_SIZES = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128}
# Parts for images and sound, which text does not go through.
TINY_TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}

NO_KERNEL = {"deepseek v3.2", "glm 5", "deepseek v4", "deepseek v4, yarn"}
"""Cases that the C kernel does not compute: an index that chooses keys, and compressed blocks."""

EAGER_IS_WRONG = {"falcon rw"}
"""Cases of which `transformers` adds the biases twice in its explicit attention, and once in its default."""

NEWER: dict[str, tuple[str, dict[str, Any]]] = {
    "glm": ("glm", {"head_dim": 16, **EPS}),
    "glm 4.5": ("glm4_moe", {**ROUTED, **EPS, "head_dim": 16, "use_qk_norm": True, "attention_bias": True}),
    "glm 4.5 air": ("glm4_moe", {**ROUTED, **EPS, "head_dim": 8, "n_group": 1, "topk_group": 1}),
    "glm 4.7 flash": ("glm4_moe_lite", {**LATENT, **ROUTED, "n_group": 1, "topk_group": 1}),
    "ernie 4.5": ("ernie4_5", {**EPS, "head_dim": 16, "use_bias": True, "tie_word_embeddings": True}),
    "ernie 4.5, experts": (
        "ernie4_5_moe",
        {**EPS, "moe_num_experts": 8, "moe_k": 2, "moe_intermediate_size": 24, "moe_layer_start_index": 1},
    ),
    "seed-oss": ("seed_oss", {**EPS, "head_dim": 16}),
    "exaone 3.5": ("exaone", EPS),
    "minimax m2": (
        "minimax_m2",
        {**EPS, "num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": 8, "rotary_dim": 4},
    ),
    "youtu": ("youtu", {**LATENT, "rope_parameters": YARN}),
    "minicpm 3": (
        "minicpm3",
        {
            **LATENT,
            "dim_model_base": 16,
            "rope_parameters": {
                **LONGROPE,
                "short_factor": [1.0, 1.1],
                "long_factor": [1.0, 3.0],
                "original_max_position_embeddings": 24,
            },
        },
    ),
    "mellum 2": (
        "mellum",
        {
            **EPS,
            **EXPERTS,
            **WINDOWS,
            "num_experts": 8,
            "head_dim": 8,
            "mlp_layer_types": ["sparse", "dense", "sparse"],
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 5e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "internlm 3": ("internlm3", {**EPS, "head_dim": 16, "attention_bias": True, "mlp_bias": True}),
    "iquest coder": ("iquestcoder", {**EPS, "head_dim": 16}),
    "granite, windows": (
        "granite_swa",
        {**EPS, **WINDOWS, **MULTIPLIERS, "layer_rope_theta": [1e4, 0, 100.0]},
    ),
    "granite, windows and experts": (
        "granitemoe_swa",
        {
            **EPS,
            **WINDOWS,
            **MULTIPLIERS,
            "num_local_experts": 6,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 20,
            "layer_rope_theta": [0, 1e4, 100.0],
        },
    ),
    "mistral 4": (
        "mistral4",
        {**LATENT, **ROUTED, "rope_parameters": {**YARN, "mscale_all_dim": 0.9, "llama_4_scaling_beta": 0.1}},
    ),
    "phi-4 multimodal": (
        "phi4_multimodal",
        {
            **EPS,
            "original_max_position_embeddings": 24,
            "rope_parameters": {
                **LONGROPE,
                "partial_rotary_factor": 0.5,
                "short_factor": [1.0, 1.1],
                "long_factor": [1.0, 3.0],
            },
            "vision_config": TINY_TOWER,
            "audio_config": {**TINY_TOWER, "num_blocks": 1, "ext_pw_out_channel": 8, "nemo_conv_channels": 8}
            | {"depthwise_separable_out_channel": 8},
        },
    ),
    "cwm": (
        "cwm",
        {
            **EPS,
            **WINDOWS,
            "head_dim": 8,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 1e4,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    "helium": ("helium", {**EPS, "head_dim": 8}),
    "dots 1": ("dots1", {**EPS, **ROUTED, **WINDOWS, "n_shared_experts": 2, "first_k_dense_replace": 1}),
    "solar open": ("solar_open", {**EPS, **ROUTED, "head_dim": 8, "attention_bias": True}),
    "hy 3": ("hy_v3", {**EPS, **EXPERTS, "num_experts": 8, "head_dim": 8}),
    "k-exaone": ("exaone_moe", {**EPS, **EXPERTS, **WINDOWS, "num_experts": 8, "n_group": 4, "topk_group": 2}),
    "flexolmo": ("flex_olmo", {**EPS, "num_experts": 6, "num_experts_per_tok": 3}),
    "sarvam, experts": ("sarvam_moe", {**EPS, **ROUTED, "head_dim": 8}),
    "sarvam, latent": ("sarvam_mla", {**LATENT, **ROUTED}),
    "jais 2": ("jais2", {"layer_norm_eps": 3e-4}),
    "vaultgemma": (
        "vaultgemma",
        {
            **EPS,
            **WINDOWS,
            "head_dim": 8,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 20.0,
        },
    ),
    "aria": ("aria_text", {**EPS, "moe_num_experts": 4, "moe_topk": 2}),
    "gpt 1": ("openai-gpt", {**GPT2_SIZES, "layer_norm_epsilon": 3e-4}),
    "gpt-j": ("gptj", {**GPT2_SIZES, "rotary_dim": 4, "layer_norm_epsilon": 3e-4}),
    "codegen": ("codegen", {**GPT2_SIZES, "rotary_dim": 4}),
    "gpt-neo": (
        "gpt_neo",
        {
            "num_layers": 3,
            "num_heads": 4,
            "window_size": 6,
            "attention_types": [[["global", "local"], 1], [["local"], 1]],
        },
    ),
    "starcoder": ("gpt_bigcode", {**GPT2_SIZES, "layer_norm_epsilon": 3e-4}),
    "starcoder, a key for each head": ("gpt_bigcode", {**GPT2_SIZES, "multi_query": False, "n_inner": 40}),
    "gpt-neox japanese": ("gpt_neox_japanese", {"intermediate_multiple_size": 2}),
    "opt": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "biogpt": ("biogpt", {"layer_norm_eps": 3e-4}),
    "xglm": ("xglm", {"d_model": 32, "num_layers": 3, "attention_heads": 4, "ffn_dim": 48}),
    "persimmon": ("persimmon", {"layer_norm_eps": 3e-4}),
    "falcon 7b": ("falcon", {"layer_norm_epsilon": 3e-4, "bias": True, "ffn_hidden_size": 40}),
    "falcon 40b": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon 11b": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1}),
    "falcon rw": (
        "falcon",
        {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True, "num_attention_heads": 4},
    ),
    "bloom": ("bloom", {"n_layer": 3, "n_head": 4, "layer_norm_epsilon": 3e-4}),
    "bloom, six heads": ("bloom", {"n_layer": 3, "n_head": 6, "hidden_size": 48}),
    "mpt": (
        "mpt",
        {"d_model": 48, "n_heads": 6, "n_layers": 3, "max_seq_len": 128, "layer_norm_epsilon": 3e-4}
        | {"attn_config": {"clip_qkv": 0.5}},
    ),
    "dbrx": (
        "dbrx",
        {
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 3,
            "max_seq_len": 128,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 2.0, "rope_theta": 1e4},
            "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2},
        },
    ),
    "compass": (
        "cohere_compass_text",
        {
            **WINDOWS,
            "logit_scale": 0.3,
            "layer_norm_eps": 3e-4,
            "rope_parameters": {"sliding_attention": ROPE, "full_attention": None},
        },
    ),
    "flint": (
        "flint",
        {
            **EPS,
            **EXPERTS,
            **WINDOWS,
            "num_experts": 8,
            "shared_expert_intermediate_size": 20,
            "head_dim": 8,
            "mlp_only_layers": [0],
        },
    ),
    "hunyuan": ("hunyuan_v1_dense", {**EPS, "head_dim": 8, "rope_parameters": ALPHA}),
    "hunyuan a13b": (
        "hunyuan_v1_moe",
        {**EPS, "head_dim": 8, "num_experts": 6, "moe_topk": [2, 3, 2], "rope_parameters": ALPHA},
    ),
    "trinity": (
        "afmoe",
        {**EPS, **EXPERTS, **WINDOWS, "num_experts": 8, "head_dim": 8, "route_scale": 1.5, "mup_enabled": True},
    ),
    "muse glimmer": (
        "muse_glimmer_text",
        {
            **EPS,
            "post_norm_eps": 1e-2,
            "num_hidden_layers": 5,
            "head_dim": 8,
            "sliding_window": 6,
            "final_logit_softcapping": 5.0,
        },
    ),
    "apertus": (
        "apertus",
        {
            **EPS,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 1e4,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    "apertus 1.5": ("apertus1p5_text", {**EPS, "rope_parameters": ROPE}),
    "apertus 1.5, a shorter head": (
        "apertus1p5_text",
        {**EPS, "rope_parameters": ROPE, "vocab_size": 300, "output_vocab_size": 261},
    ),
    "llama 3.2 vision": (
        "mllama_text_model",
        {**EPS, "num_hidden_layers": 5, "cross_attention_layers": [0, 3], "rope_parameters": ROPE},
    ),
    "ettin": (
        "modernbert-decoder",
        {"norm_eps": 3e-4, "local_attention": 12, "layer_types": None, "num_hidden_layers": 4, "classifier_bias": True}
        | {"pad_token_id": 0},
    ),
    "mimo v2": (
        "mimo_v2_flash",
        {
            **EPS,
            **WINDOWS,
            **ROUTED,
            "n_group": 1,
            "topk_group": 1,
            "head_dim": 12,
            "v_head_dim": 8,
        },
    ),
    "nanochat": ("nanochat", {**EPS, "final_logit_softcapping": 5.0}),
    "bitnet": ("bitnet", EPS),
    "command a+": (
        "cohere2_moe",
        {
            "head_dim": 8,
            "num_experts": 4,
            "num_shared_experts": 2,
            "first_k_dense_replace": 1,
            "prefix_dense_intermediate_size": 40,
            "sliding_window": 6,
            "layer_norm_eps": 3e-4,
        },
    ),
    "command a+, other choices": (
        "cohere2_moe",
        {
            **EPS,
            "head_dim": 8,
            "num_experts": 4,
            "num_shared_experts": 1,
            "shared_expert_combination_strategy": "sum",
            "expert_selection_fn": "sigmoid",
            "sliding_window": 6,
            "sliding_window_pattern": 2,
        },
    ),
    "hyperclovax": ("hyperclovax", {**EPS, **MULTIPLIERS, "head_dim": 8}),
    "kolibri": (
        "kolibri1",
        {**EPS, **EXPERTS, **WINDOWS, "num_experts": 8, "head_dim": 8, "shared_expert_intermediate_size": 20},
    ),
    "phi-3.5-moe": (
        "phimoe",
        {
            **EPS,
            "num_local_experts": 8,
            "lm_head_bias": True,
            "attention_bias": True,
            "router_jitter_noise": 0.3,
            "rope_parameters": {
                **LONGROPE,
                "short_factor": [1.0, 1.1, 1.2, 1.3],
                "long_factor": [1.0, 3.0, 4.0, 5.0],
                "short_mscale": 1.1,
                "long_mscale": 1.3,
                "original_max_position_embeddings": 100,
            },
        },
    ),
    "a.x k1": ("axk1", {**LATENT, **ROUTED}),
    "laguna": (
        "laguna",
        {
            **EPS,
            **EXPERTS,
            **WINDOWS,
            "num_experts": 8,
            "shared_expert_intermediate_size": 20,
            "head_dim": 8,
            "num_attention_heads_per_layer": [4, 8, 4],
            "moe_router_logit_softcapping": 0.5,
            "moe_routed_scaling_factor": 1.5,
        },
    ),
    "laguna, a gate for each value": (
        "laguna",
        {**EPS, **EXPERTS, "num_experts": 8, "head_dim": 8, "gating": "per-element"},
    ),
    "deepseek v3.2": (
        "deepseek_v32",
        {**LATENT, **ROUTED, **INDEX, "first_k_dense_replace": 1, "rope_parameters": {**YARN, "mscale_all_dim": 0.9}},
    ),
    "deepseek v4": ("deepseek_v4", BLOCKS),
    "deepseek v4, yarn": (
        "deepseek_v4",
        {
            **BLOCKS,
            "layer_types": ["heavily_compressed_attention", "compressed_sparse_attention", "sliding_attention"],
            "mlp_layer_types": ["moe", "hash_moe", "moe"],
            "scoring_func": "sigmoid",
            "rope_parameters": {key: value for key, value in YARN.items() if key != "rope_theta"},
        },
    ),
    "glm 5": (
        "glm_moe_dsa",
        {**LATENT, **ROUTED, **INDEX, "first_k_dense_replace": 1, "indexer_types": ["full", "shared", "full"]},
    ),
    "laguna, equal layers": (
        "laguna",
        {**EPS, **EXPERTS, "num_experts": 8, "head_dim": 8, "moe_router_logit_softcapping": 0.5},
    ),
}

SPANNING_NEWER = (
    "trinity", "laguna", "laguna, a gate for each value", "apertus", "bitnet", "command a+",
    "phi-3.5-moe", "bloom, six heads", "gemma 3n", "gemma 4, small",
    "gemma 4, experts", "deepseek v3", "ettin",
)  # fmt: skip
"""Together: options of the C kernel that `SPANNING` of `parity_cases` lacks."""
