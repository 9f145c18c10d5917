"""GLM."""

from __future__ import annotations

from llmcli.checkpoint.families import expert_rules, extra_rules
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.rope_keys import RopeRules
from llmcli.checkpoint.families.styles import BASE

_GLM = {
    **BASE,
    "rms_norm_eps": 1.5625e-07,
    "head_dim": 128,
    "num_key_value_heads": 2,
    "partial_rotary_factor": 0.5,
    "max_position_embeddings": 131072,
}
_GLM_MOE = {
    **BASE,
    "rms_norm_eps": 1e-5,
    "num_key_value_heads": 8,
    "moe_intermediate_size": 1408,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "n_shared_experts": 1,
    "routed_scaling_factor": 1.0,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
    "max_position_embeddings": 131072,
}
_GLM_ALIASES = {"num_experts": ("n_routed_experts", "num_local_experts")}


_GLM4_NORMS = {"attention_output_norm": "post_self_attn_layernorm", "mlp_output_norm": "post_mlp_layernorm"}

FAMILIES: dict[str, Family] = {
    "glm4": Family(
        {**BASE, "rms_norm_eps": 1.5625e-07, "head_dim": 128, "num_key_value_heads": 2, "partial_rotary_factor": 0.5}
        | {"max_position_embeddings": 131072},
        placement="sandwich",
        rope=RopeRules(partial=True),
        own_names=_GLM4_NORMS,
        paired=True,
    ),
    "glm": Family(
        _GLM,
        rope=RopeRules(partial=True),
        paired=True,
    ),
    # GLM-4.5, 4.5-Air, 4.6, 4.7.
    "glm4_moe": Family(
        {**_GLM_MOE, "partial_rotary_factor": 0.5},
        aliases=_GLM_ALIASES,
        rope=RopeRules(partial=True),
        experts=expert_rules.deepseek_v3_experts,
        extras=extra_rules.glm_moe_extras,
    ),
    "solar_open": Family(
        {**_GLM_MOE, "rope_theta": 1e6, "head_dim": 128, "moe_intermediate_size": 1280, "first_k_dense_replace": 0},
        aliases=_GLM_ALIASES,
        rope=RopeRules(partial=True),
        experts=expert_rules.deepseek_v3_experts,
    ),
    "sarvam_moe": Family(
        {
            **_GLM_MOE,
            "rope_theta": 8e6,
            "rms_norm_eps": 1e-6,
            "head_dim": 64,
            "num_key_value_heads": 4,
            "moe_intermediate_size": 1024,
            "num_experts_per_tok": 6,
            "routed_scaling_factor": 2.5,
            "use_qk_norm": True,
        },
        aliases={
            "num_experts": ("n_routed_experts", "num_local_experts", "num_experts"),
            "n_shared_experts": ("n_shared_experts", "num_shared_experts"),
            "attention_bias": ("attention_bias", "use_qkv_bias"),
        },
        rope=RopeRules(partial=True),
        experts=expert_rules.deepseek_v3_experts,
        extras=extra_rules.glm_moe_extras,
    ),
    # GLM-4.1V and 4.6V-Flash.
    "glm4v_text": Family(
        {**BASE, "rms_norm_eps": 1e-5, "num_key_value_heads": 2, "max_position_embeddings": 32768},
        placement="sandwich",
        rope=RopeRules(partial=True),
        own_names=_GLM4_NORMS,
        paired=True,
    ),
    # GLM-4.5V and 4.6V.
    "glm4v_moe_text": Family(
        {**_GLM_MOE, "partial_rotary_factor": 0.5, "max_position_embeddings": 65536},
        aliases=_GLM_ALIASES,
        rope=RopeRules(partial=True),
        experts=expert_rules.deepseek_v3_experts,
    ),
}
