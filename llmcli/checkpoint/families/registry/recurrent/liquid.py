"""Liquid AI's models: short convolutions in place of most attention layers."""

from __future__ import annotations

from llmcli.checkpoint.families import delta_rules, hybrid_expert_rules
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.layer_rules import CONV, FULL, SLIDING
from llmcli.checkpoint.families.rope_keys import RopeRules
from llmcli.checkpoint.families.styles import BASE

_BOTH = {
    **BASE,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-5,
    "num_key_value_heads": 8,
    "max_position_embeddings": 128000,
    "conv_L_cache": 3,
    "conv_bias": False,
}
_EPS = {"rms_norm_eps": ("norm_eps",)}
_NAMES = {
    "norm": "embedding_norm",
    "input_layernorm": "operator_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
}

FAMILIES: dict[str, Family] = {
    "lfm2": Family(
        {
            **_BOTH,
            "intermediate_size": 12288,
            "block_auto_adjust_ff_dim": True,
            "block_ffn_dim_multiplier": 1.0,
            "block_multiple_of": 256,
        },
        aliases={**_EPS, "intermediate_size": ("block_ff_dim", "intermediate_size"), "hidden_act": ()},
        qk_norm="head",
        kinds=(FULL, CONV),
        layer_types=delta_rules.listed_full,
        lists_layer_types=True,
        layer_extras=delta_rules.conv_layers,
        extras=delta_rules.lfm2_width,
        own_names=_NAMES,
    ),
    "lfm2_moe": Family(
        {
            **_BOTH,
            "intermediate_size": 7168,
            "moe_intermediate_size": 1792,
            "num_experts": 32,
            "num_experts_per_tok": 4,
            "num_dense_layers": 2,
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.0,
            "use_expert_bias": True,
        },
        aliases={**_EPS, "hidden_act": ()},
        qk_norm="head",
        kinds=(FULL, CONV),
        lists_layer_types=True,
        layer_extras=delta_rules.conv_layers,
        experts=hybrid_expert_rules.lfm2_experts,
        own_names=_NAMES,
    ),
    "lfm3": Family(
        {
            **_BOTH,
            "intermediate_size": 7680,
            "head_dim": 128,
            "num_key_value_heads": 4,
            "conv_L_cache": 7,
            "sliding_window": 256,
            "use_attention_gate": True,
            "use_sandwich_norm": True,
            "rope_parameters": {
                SLIDING: {"rope_type": "default", "rope_theta": 1e4},
                FULL: {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.5},
            },
        },
        aliases={"rms_norm_eps": ("norm_eps", "rms_norm_eps"), "hidden_act": ()},
        placement="sandwich",
        qk_norm="head",
        kinds=(FULL, SLIDING, CONV),
        layer_types=delta_rules.lfm3_types,
        lists_layer_types=True,
        layer_extras=delta_rules.conv_layers,
        extras=delta_rules.lfm3_extras,
        rope=RopeRules(by_layer_type=True, float32=True),
        own_names={**_NAMES, "attention_output_norm": "post_operator_norm", "mlp_output_norm": "post_ffn_norm"},
    ),
}
