"""Llama, and small models close to it."""

from __future__ import annotations

from llmcli.checkpoint.families import expert_rules, extra_rules, layer_rules
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.rope_keys import RopeRules
from llmcli.checkpoint.families.styles import BASE, EXPERT_COUNT

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
}
