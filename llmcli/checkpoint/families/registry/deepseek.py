"""DeepSeek, and models with its latent attention."""

from __future__ import annotations

from dataclasses import replace

from llmcli.checkpoint.families import expert_rules, extra_rules, layer_rules, shape_rules, shared_row_rules
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.rope_keys import RopeRules
from llmcli.checkpoint.families.styles import BASE, LATE_RMS

_DEEPSEEK = {
    **BASE,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "routed_scaling_factor": 1.0,
    "first_k_dense_replace": 0,
    "topk_method": "greedy",
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 1407,
    "n_shared_experts": 2,
}
_DEEPSEEK_ALIASES = {"num_experts": ("n_routed_experts", "num_local_experts", "num_experts")}
_LATENT_ALIASES = {**_DEEPSEEK_ALIASES, "partial_rotary_factor": ()}
# DeepSeek-V3, R1, Moonlight, Kimi-K2.
_DEEPSEEK_V3 = Family(
    {
        **_DEEPSEEK,
        "routed_scaling_factor": 2.5,
        "norm_topk_prob": True,
        "n_group": 8,
        "topk_group": 4,
        "num_experts": 256,
        "moe_intermediate_size": 2048,
        "n_shared_experts": 1,
        "first_k_dense_replace": 3,
        "max_position_embeddings": 4096,
    },
    aliases=_LATENT_ALIASES,
    experts=expert_rules.deepseek_v3_experts,
    extras=extra_rules.deepseek_extras,
    paired=True,
    paired_key="rope_interleave",
)

# Their `layer_types` say of every layer that it has an index.
_INDEXED = replace(
    _DEEPSEEK_V3,
    defaults={
        **_DEEPSEEK_V3.defaults,
        "index_n_heads": 64,
        "index_head_dim": 128,
        "index_topk": 2048,
        "index_topk_freq": 1,
        "index_skip_topk_offset": 2,
        "max_position_embeddings": 163840,
    },
    aliases={**_LATENT_ALIASES, "layer_types": (), "indexer_types": (), "index_topk_pattern": ()},
    layer_extras=shape_rules.index_layer_extras,
    paired_key=None,
)

_DEEPSEEK_V4 = Family(
    {
        **BASE,
        "vocab_size": 129280,
        "hidden_size": 4096,
        "moe_intermediate_size": 2048,
        "num_hidden_layers": 43,
        "num_attention_heads": 64,
        "num_key_value_heads": 1,
        "head_dim": 512,
        "q_lora_rank": 1024,
        "num_experts_per_tok": 6,
        "num_experts": 256,
        "scoring_func": "sqrtsoftplus",
        "routed_scaling_factor": 1.5,
        "max_position_embeddings": 1048576,
        "compress_rope_theta": 160000.0,
        "hc_mult": 4,
        "hc_sinkhorn_iters": 20,
        "hc_eps": 1e-6,
        "swiglu_limit": 10.0,
        "sliding_window": 128,
        "o_groups": 8,
        "o_lora_rank": 1024,
        "index_n_heads": 64,
        "index_head_dim": 128,
        "index_topk": 512,
    },
    aliases={**_DEEPSEEK_ALIASES, "layer_types": ()},
    norm=replace(LATE_RMS, float32=True),
    sinks=True,
    kinds=(layer_rules.SLIDING, shared_row_rules.SPARSE_BLOCKS, shared_row_rules.HEAVY_BLOCKS),
    layer_types=shared_row_rules.deepseek_v4_types,
    # Rotations are fields of the layers.
    rope_on=layer_rules.never_rope,
    rope=RopeRules(restated=True),
    experts=shared_row_rules.deepseek_v4_experts,
    layer_extras=shared_row_rules.deepseek_v4_layer_extras,
    extras=shared_row_rules.deepseek_v4_extras,
    supported_values={"n_shared_experts": (1,), "mlp_bias": (False,)},
)

FAMILIES: dict[str, Family] = {
    "deepseek_v2": Family(
        _DEEPSEEK,
        aliases=_LATENT_ALIASES,
        rope=RopeRules(float32=True),
        experts=expert_rules.deepseek_v2_experts,
        extras=extra_rules.deepseek_extras,
        paired=True,
    ),
    "deepseek_v3": _DEEPSEEK_V3,
    "deepseek_v32": _INDEXED,
    "deepseek_v4": _DEEPSEEK_V4,
    "kimi_k2": _DEEPSEEK_V3,
    # GLM-5.
    "glm_moe_dsa": replace(
        _INDEXED,
        defaults={
            **_INDEXED.defaults,
            "rms_norm_eps": 1e-5,
            "q_lora_rank": 2048,
            "qk_nope_head_dim": 192,
            "v_head_dim": 256,
            "n_group": 1,
            "topk_group": 1,
            "index_n_heads": 32,
            "max_position_embeddings": 202752,
        },
        aliases={**_LATENT_ALIASES, "layer_types": ()},
        paired_index=True,
    ),
    "glm4_moe_lite": replace(
        _DEEPSEEK_V3,
        defaults={
            **_DEEPSEEK_V3.defaults,
            "rms_norm_eps": 1e-5,
            "kv_lora_rank": 512,
            "q_lora_rank": 768,
            "qk_nope_head_dim": 192,
            "v_head_dim": 256,
            "num_experts": 64,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 1536,
            "routed_scaling_factor": 1.8,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "max_position_embeddings": 202752,
        },
    ),
    "youtu": Family(
        {**_DEEPSEEK, "max_position_embeddings": 131072},
        aliases={"partial_rotary_factor": ()},
        extras=extra_rules.deepseek_extras,
        paired=True,
        paired_key="rope_interleave",
    ),
    "minicpm3": Family(
        {
            **BASE,
            "rms_norm_eps": 1e-5,
            "kv_lora_rank": 256,
            "q_lora_rank": 768,
            "qk_nope_head_dim": 64,
            "qk_rope_head_dim": 32,
            "v_head_dim": None,
            "scale_emb": 12,
            "scale_depth": 1.4,
            "dim_model_base": 256,
            "max_position_embeddings": 32768,
        },
        aliases={"partial_rotary_factor": ()},
        extras=extra_rules.minicpm3_extras,
    ),
    "sarvam_mla": Family(
        {
            **_DEEPSEEK_V3.defaults,
            "q_lora_rank": None,
            "num_experts": 128,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
        },
        aliases={**_LATENT_ALIASES, "n_shared_experts": ("n_shared_experts", "num_shared_experts")},
        rope=RopeRules(old_names=(("deepseek_yarn", "yarn"),)),
        experts=expert_rules.deepseek_v3_experts,
        extras=extra_rules.deepseek_extras,
        paired=True,
        paired_key="rope_interleave",
    ),
    # Mistral-Small-4.
    "mistral4": Family(
        {
            **_DEEPSEEK_V3.defaults,
            "kv_lora_rank": 256,
            "q_lora_rank": 1024,
            "qk_nope_head_dim": 64,
            "num_experts": 128,
            "num_experts_per_tok": 4,
            "routed_scaling_factor": 1.0,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 0,
            "max_position_embeddings": 1048576,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 128.0,
                "original_max_position_embeddings": 8192,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.1,
            },
        },
        aliases=_LATENT_ALIASES,
        rope=RopeRules(restated=True),
        query_scaling=layer_rules.ministral_query_scaling,
        experts=expert_rules.mistral4_experts,
        extras=extra_rules.deepseek_extras,
        paired=True,
        paired_key="rope_interleave",
    ),
    # SK Telecom's A.X K1.
    "axk1": Family(
        {**_DEEPSEEK_V3.defaults, "num_experts": 192, "first_k_dense_replace": 1, "max_position_embeddings": 32768},
        aliases=_LATENT_ALIASES,
        experts=expert_rules.axk1_experts,
        extras=extra_rules.deepseek_extras,
        own_names={"mlp_output_norm": "post_mlp_layernorm"},
        paired=True,
        paired_key="rope_interleave",
        optional_selection_bias=True,
    ),
}
