"""Qwen."""

from __future__ import annotations

from llmcli.checkpoint.families import expert_rules, layer_rules
from llmcli.checkpoint.families.bias_keys import ALWAYS, BiasKeys
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.rope_keys import RopeRules
from llmcli.checkpoint.families.styles import BASE, EXPERT_COUNT

_QWEN = {**BASE, "max_position_embeddings": 32768, "sliding_window": 4096, "max_window_layers": 28}
_QWEN_MOE = {
    **_QWEN,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "decoder_sparse_step": 1,
}

# Qwen 1.5, 2, 2.5.
_QWEN2 = Family(_QWEN, layer_types=layer_rules.upper_sliding, lists_layer_types=True, biases=ALWAYS)

FAMILIES: dict[str, Family] = {
    "qwen2": _QWEN2,
    "qwen2_moe": Family(
        {
            **_QWEN_MOE,
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
        },
        aliases=EXPERT_COUNT,
        layer_types=layer_rules.lower_even_sliding,
        lists_layer_types=True,
        biases=BiasKeys("qkv_bias"),
        experts=expert_rules.qwen_experts,
    ),
    "qwen3": Family(
        {**_QWEN, "head_dim": 128}, layer_types=layer_rules.upper_sliding, lists_layer_types=True, qk_norm="head"
    ),
    "qwen3_moe": Family(
        {**_QWEN_MOE, "num_key_value_heads": 4},
        aliases=EXPERT_COUNT,
        layer_types=layer_rules.all_sliding_if_used,
        qk_norm="head",
        experts=expert_rules.qwen_experts,
    ),
    # JetBrains' Mellum 2.
    "mellum": Family(
        {
            **BASE,
            "head_dim": 128,
            "num_key_value_heads": 4,
            "sliding_window": 1024,
            "moe_intermediate_size": 896,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "norm_topk_prob": True,
            "max_position_embeddings": 131072,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 5e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        aliases=EXPERT_COUNT,
        qk_norm="head",
        lists_layer_types=True,
        rope=RopeRules(by_layer_type=True),
        experts=expert_rules.mellum_experts,
    ),
    "flint": Family(
        {
            **BASE,
            "head_dim": 128,
            "num_key_value_heads": 4,
            "sliding_window": 513,
            "decoder_sparse_step": 1,
            "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 1024,
            "num_experts": 256,
            "num_experts_per_tok": 6,
            "norm_topk_prob": True,
            "max_position_embeddings": 262144,
        },
        qk_norm="head",
        sinks=True,
        layer_types=layer_rules.ends_full,
        lists_layer_types=True,
        rope_on=layer_rules.sliding_rope,
        experts=expert_rules.flint_experts,
    ),
    "qwen2_vl_text": _QWEN2,
    "qwen2_5_vl_text": _QWEN2,
    "qwen3_vl_text": Family({**_QWEN, "rope_theta": 5e5, "head_dim": 128, "sliding_window": None}, qk_norm="head"),
    # The weights of its experts are always divided by their sum.
    "qwen3_vl_moe_text": Family(
        {**_QWEN_MOE, "rope_theta": 5e5, "num_key_value_heads": 16, "num_experts": 60, "num_experts_per_tok": 4}
        | {"moe_intermediate_size": 1408, "max_position_embeddings": 128000, "norm_topk_prob": True},
        aliases={**EXPERT_COUNT, "norm_topk_prob": ()},
        qk_norm="head",
        experts=expert_rules.qwen_experts,
        experts_transposed=True,
    ),
}
