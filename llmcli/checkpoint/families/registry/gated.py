"""Models whose attention has a gate: Trinity (AFMoE), Muse Glimmer, Laguna."""

from __future__ import annotations

from llmcli.checkpoint.families import expert_rules, extra_rules, layer_rules, shape_rules
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.rope_keys import RopeRules
from llmcli.checkpoint.families.styles import BASE, CENTERED_RMS, LATE_RMS, SANDWICH

FAMILIES: dict[str, Family] = {
    # Arcee's Trinity Nano, Mini and Large.
    "afmoe": Family(
        {
            **BASE,
            "rms_norm_eps": 1e-5,
            "head_dim": 128,
            "sliding_window": 1024,
            "sliding_window_pattern": 4,
            "moe_intermediate_size": 1408,
            "num_dense_layers": 1,
            "num_experts": 64,
            "num_experts_per_tok": 6,
            "n_shared_experts": 2,
            "routed_scaling_factor": 1.0,
            "max_position_embeddings": 16384,
        },
        aliases={
            "sliding_window_pattern": ("global_attn_every_n_layers",),
            "n_shared_experts": ("num_shared_experts",),
            "routed_scaling_factor": ("route_scale",),
        },
        norm=LATE_RMS,
        placement="sandwich",
        qk_norm="head",
        layer_types=layer_rules.mostly_sliding,
        lists_layer_types=True,
        rope_on=layer_rules.sliding_rope,
        experts=expert_rules.afmoe_experts,
        extras=extra_rules.afmoe_extras,
        own_names={
            "attention_output_norm": "post_attention_layernorm",
            "post_attention_layernorm": "pre_mlp_layernorm",
            "mlp_output_norm": "post_mlp_layernorm",
        },
    ),
    # The text model of Meta's Muse-Glimmer-30B.
    "muse_glimmer_text": Family(
        {
            **BASE,
            "rms_norm_eps": 1e-5,
            "post_norm_eps": 1e-8,
            "head_dim": 128,
            "num_key_value_heads": 2,
            "sliding_window": 2048,
            "qk_scale_factor": 3.87,
            "output_multiplier": 0.19611613513818404,
            "final_logit_softcapping": 20.0,
            "max_position_embeddings": 131072,
        },
        aliases={"hidden_act": ("hidden_activation",)},
        norm=CENTERED_RMS,
        placement="sandwich",
        qk_norm="weightless",
        layer_types=layer_rules.every_fourth_from_the_end_full,
        lists_layer_types=True,
        rope_on=layer_rules.rope_but_in_every_fourth_from_the_end,
        extras=extra_rules.muse_extras,
        own_names=SANDWICH,
        capped_in_wrappers=True,
    ),
    # Poolside's Laguna.
    "laguna": Family(
        {
            **BASE,
            "head_dim": 128,
            "num_key_value_heads": 8,
            "sliding_window": 512,
            "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512,
            "num_experts": 256,
            "num_experts_per_tok": 8,
            "moe_routed_scaling_factor": 1.0,
            "moe_router_logit_softcapping": 0.0,
            "gating": True,
            "max_position_embeddings": 131072,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 0.5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0},
            },
        },
        qk_norm="head",
        lists_layer_types=True,
        rope=RopeRules(by_layer_type=True, partial=True),
        experts=expert_rules.laguna_experts,
        heads=shape_rules.listed_heads,
        extras=extra_rules.laguna_extras,
        supported_values={"moe_apply_router_weight_on_input": (False,)},
    ),
}
