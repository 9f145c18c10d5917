"""Llama, and small models close to it."""

from __future__ import annotations

from llmcli.checkpoint.families import expert_rules, extra_rules, layer_rules
from llmcli.checkpoint.families.bias_keys import BiasKeys
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.rope_keys import RopeRules
from llmcli.checkpoint.families.styles import BASE, EXPERT_COUNT, LATE_RMS, LAYER_EPS, LAYER_NORM, LAYER_NORM_BASE

FAMILIES: dict[str, Family] = {
    # Llama 1, 2, 3, 3.1, 3.2, and models published in its format: SmolLM and SmolLM2, Yi, TinyLlama, DeepSeek-LLM.
    "llama": Family(BASE),
    "llama4_text": Family(
        {
            **BASE,
            "rope_theta": 5e5,
            "rms_norm_eps": 1e-5,
            "head_dim": 128,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
            "attention_chunk_size": 8192,
            "no_rope_layer_interval": 4,
            "use_qk_norm": True,
            "attn_temperature_tuning": True,
            "attn_scale": 0.1,
            "floor_scale": 8192,
            "num_experts": 16,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 1,
            "intermediate_size": 8192,
            "intermediate_size_mlp": 16384,
        },
        aliases=EXPERT_COUNT,
        layer_types=layer_rules.chunked_where_rotated,
        lists_layer_types=True,
        rope_on=layer_rules.listed_rope,
        rope=RopeRules(float32=True),
        query_scaling=layer_rules.llama4_query_scaling,
        experts=expert_rules.llama4_experts,
        extras=extra_rules.llama4_extras,
        paired=True,
        experts_transposed=True,
    ),
    # The text model of Llama 3.2 Vision.
    "mllama_text_model": Family(
        {
            **BASE,
            "rope_theta": 5e5,
            "rms_norm_eps": 1e-5,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
            "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
        },
        left_out=layer_rules.image_layers,
        spare_embeddings=True,
    ),
    "smollm3": Family(
        {**BASE, "rope_theta": 2e6, "num_key_value_heads": 4, "no_rope_layer_interval": 4}
        | {"max_position_embeddings": 32768},
        layer_types=layer_rules.sliding_where_not_rotated,
        lists_layer_types=True,
        rope_on=layer_rules.listed_rope,
    ),
    "arcee": Family(
        {**BASE, "rms_norm_eps": 1e-5, "hidden_act": "relu2", "max_position_embeddings": 4096}, gated=False
    ),
    "seed_oss": Family(
        {**BASE, "head_dim": 128, "num_key_value_heads": 8, "max_position_embeddings": 524288},
        biases=BiasKeys(output="attention_out_bias"),
    ),
    "internlm3": Family(
        {**BASE, "rms_norm_eps": 1e-5, "head_dim": 128, "num_key_value_heads": 2, "max_position_embeddings": 32768},
        aliases={"attention_bias": ("attention_bias", "qkv_bias"), "mlp_bias": ("mlp_bias", "bias")},
    ),
    "iquestcoder": Family(
        {**BASE, "rms_norm_eps": 1e-5, "head_dim": 128, "num_key_value_heads": 8, "max_position_embeddings": 131072}
    ),
    # Meta's code world model.
    "cwm": Family(
        {
            **BASE,
            "rope_theta": 1e6,
            "rms_norm_eps": 1e-5,
            "head_dim": 128,
            "num_key_value_heads": 8,
            "sliding_window": 8192,
            "max_position_embeddings": 131072,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 1e6,
                "factor": 16.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
            },
        },
        layer_types=layer_rules.first_of_four_full,
        lists_layer_types=True,
    ),
    "helium": Family(
        {**BASE, "rope_theta": 1e5, "rms_norm_eps": 1e-8, "head_dim": 128, "num_key_value_heads": 20}
        | {"max_position_embeddings": 4096},
        norm=LATE_RMS,
        paired=True,
    ),
    "jais2": Family(
        {**LAYER_NORM_BASE, "hidden_act": "relu2", "max_position_embeddings": 8192},
        aliases=LAYER_EPS,
        norm=LAYER_NORM,
        gated=False,
    ),
}
