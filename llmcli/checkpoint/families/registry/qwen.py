"""Qwen."""

from __future__ import annotations

from llmcli.checkpoint.families import expert_rules, layer_rules
from llmcli.checkpoint.families.bias_keys import ALWAYS, BiasKeys
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.styles import BASE, EXPERT_COUNT

_QWEN = {**BASE, "max_position_embeddings": 32768, "sliding_window": 4096, "max_window_layers": 28}
_QWEN_MOE = {
    **_QWEN,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "decoder_sparse_step": 1,
}

FAMILIES: dict[str, Family] = {
    # Qwen 1.5, 2, 2.5.
    "qwen2": Family(_QWEN, layer_types=layer_rules.upper_sliding, lists_layer_types=True, biases=ALWAYS),
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
}
