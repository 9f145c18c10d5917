"""Exaone."""

from __future__ import annotations

from llmcli.checkpoint.families import expert_rules, layer_rules
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.styles import BASE, POST

FAMILIES: dict[str, Family] = {
    "exaone4": Family(
        {**BASE, "rms_norm_eps": 1e-5, "sliding_window": 4096, "sliding_window_pattern": 4},
        placement="post",
        qk_norm="head",
        layer_types=layer_rules.mostly_sliding,
        lists_layer_types=True,
        rope_on=layer_rules.sliding_rope_if_any,
        own_names=POST,
    ),
    # Exaone 3, 3.5, Deep.
    "exaone": Family(
        {**BASE, "rope_theta": 5e5, "rms_norm_eps": 1e-5, "num_key_value_heads": 8, "max_position_embeddings": 4096},
        aliases={
            "num_hidden_layers": ("num_layers", "num_hidden_layers"),
            "rms_norm_eps": ("layer_norm_epsilon", "rms_norm_eps"),
            "hidden_act": ("activation_function", "hidden_act"),
        },
    ),
    # K-EXAONE.
    "exaone_moe": Family(
        {
            **BASE,
            "rms_norm_eps": 1e-5,
            "num_key_value_heads": 32,
            "sliding_window": 4096,
            "sliding_window_pattern": 4,
            "first_k_dense_replace": 1,
            "moe_intermediate_size": 1024,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "n_shared_experts": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "n_group": 1,
            "topk_group": 1,
        },
        aliases={"n_shared_experts": ("num_shared_experts",)},
        qk_norm="head",
        layer_types=layer_rules.mostly_sliding,
        lists_layer_types=True,
        rope_on=layer_rules.sliding_rope_if_any,
        experts=expert_rules.deepseek_v3_experts,
    ),
}
