"""Kimi's delta attention in most layers, latent attention in the others."""

from __future__ import annotations

from llmcli.checkpoint.families import expert_rules, extra_rules, layer_rules, mixer_rules
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.layer_rules import FULL, LINEAR
from llmcli.checkpoint.families.styles import BASE

_BOTH = {
    **BASE,
    "q_lora_rank": None,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_experts_per_tok": 8,
}
_ALIASES = {
    "partial_rotary_factor": (),
    "max_position_embeddings": ("model_max_length", "max_position_embeddings"),
    "num_experts": ("num_experts", "num_local_experts"),
    "num_experts_per_tok": ("num_experts_per_token", "num_experts_per_tok"),
    "n_shared_experts": ("num_shared_experts", "n_shared_experts"),
    "norm_topk_prob": ("moe_renormalize", "norm_topk_prob"),
    "n_group": ("num_expert_group", "n_group"),
    "scoring_func": ("moe_router_activation_func", "scoring_func"),
}

FAMILIES: dict[str, Family] = {
    "kimi_linear": Family(
        {
            **_BOTH,
            "rms_norm_eps": 1e-5,
            "linear_head_dim": 128,
            "linear_num_heads": 32,
            "linear_conv_kernel_dim": 4,
            "num_experts": 256,
            "moe_intermediate_size": 1024,
            "routed_scaling_factor": 2.446,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "max_position_embeddings": 1048576,
        },
        aliases=_ALIASES,
        kinds=(FULL, LINEAR),
        layer_types=mixer_rules.kimi_types,
        lists_layer_types=True,
        layer_extras=mixer_rules.kimi_layers,
        rope_on=layer_rules.never_rope,
        experts=expert_rules.deepseek_v3_experts,
        extras=extra_rules.deepseek_extras,
    ),
    # Ling 3.
    "bailing_hybrid": Family(
        {
            **_BOTH,
            "linear_head_dim": 128,
            "num_experts": 512,
            "moe_intermediate_size": 768,
            "routed_scaling_factor": 2.5,
            "n_group": 8,
            "topk_group": 4,
            "first_k_dense_replace": 2,
            "layer_group_size": 6,
            "short_conv_kernel_size": 4,
            "kda_safe_gate": True,
            "kda_lower_bound": -5.0,
            "max_position_embeddings": 262144,
            "rope_theta": 6e6,
        },
        aliases={
            **_ALIASES,
            "linear_head_dim": ("linear_head_dim", "head_dim"),
        },
        kinds=(FULL, LINEAR),
        layer_types=mixer_rules.last_of_group_full,
        lists_layer_types=True,
        layer_extras=mixer_rules.bailing_layers,
        experts=expert_rules.deepseek_v3_experts,
        extras=extra_rules.bailing_extras,
        paired=True,
    ),
}
