"""Attention in some layers, Mamba or Mamba-2 in the others or beside it; Granite's are among the other Granites."""

from __future__ import annotations

import math

from llmcli.checkpoint.families import extra_rules, hybrid_expert_rules, layer_rules, mixer_rules
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.layer_rules import DENSE, FULL, LINEAR, SPARSE
from llmcli.checkpoint.families.rope_keys import RopeRules
from llmcli.checkpoint.families.styles import BASE, EXPERT_COUNT, LATE_RMS, MAMBA2

_NO_LIMITS = [0.0, math.inf], [0.0, {"__float__": "Infinity"}]
_SILU: dict[str, tuple[object, ...]] = {"hidden_act": ("silu",)}

FAMILIES: dict[str, Family] = {
    "bamba": Family(
        {
            **BASE,
            **MAMBA2,
            "rms_norm_eps": 1e-5,
            "num_key_value_heads": 8,
            "max_position_embeddings": 262144,
            "partial_rotary_factor": 0.5,
        },
        # The share of each head that is rotated is fixed.
        aliases={"partial_rotary_factor": ()},
        kinds=(FULL, LINEAR),
        layer_types=mixer_rules.listed_attention,
        layer_extras=mixer_rules.granite_layers,
        rope=RopeRules(partial=True),
        supported_values=_SILU,
    ),
    "falcon_h1": Family(
        {
            **BASE,
            **MAMBA2,
            "rms_norm_eps": 1e-5,
            "num_key_value_heads": 8,
            "max_position_embeddings": 8192,
            "mamba_d_ssm": 1024,
            "mamba_norm_before_gate": True,
            "mamba_rms_norm": False,
            **dict.fromkeys(("embedding_multiplier", "lm_head_multiplier", "key_multiplier"), 1.0),
            **dict.fromkeys(("attention_in_multiplier", "attention_out_multiplier"), 1.0),
            **dict.fromkeys(("ssm_in_multiplier", "ssm_out_multiplier"), 1.0),
        },
        kinds=(FULL, LINEAR),
        layer_extras=mixer_rules.falcon_h1_layers,
        extras=extra_rules.falcon_h1_extras,
        scales=mixer_rules.falcon_h1_scales,
        supported_values={**_SILU, "projectors_bias": (False,), "mamba_proj_bias": (False,)},
    ),
    "jamba": Family(
        {
            **BASE,
            "num_key_value_heads": 8,
            "max_position_embeddings": 262144,
            "num_experts": 16,
            "num_experts_per_tok": 2,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "attn_layer_period": 8,
            "attn_layer_offset": 4,
            "mamba_d_state": 16,
            "mamba_d_conv": 4,
            "mamba_expand": 2,
            "mamba_dt_rank": "auto",
            "mamba_conv_bias": True,
            "mamba_proj_bias": False,
        },
        aliases=EXPERT_COUNT,
        kinds=(FULL, LINEAR),
        layer_types=mixer_rules.periodic_attention,
        layer_extras=mixer_rules.jamba_layers,
        rope_on=layer_rules.never_rope,
        experts=hybrid_expert_rules.jamba_experts,
        supported_values=_SILU,
    ),
    # Nemotron-H, Nemotron Nano 2 and Nemotron 3.
    "nemotron_h": Family(
        {
            **BASE,
            "rms_norm_eps": 1e-5,
            "hidden_act": "relu2",
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 4096,
            "mamba_num_heads": 128,
            "mamba_head_dim": 64,
            "n_groups": 8,
            "ssm_state_size": 128,
            "conv_kernel": 4,
            "use_conv_bias": True,
            "mamba_proj_bias": False,
            "n_shared_experts": 1,
            "moe_intermediate_size": 7688,
            "moe_shared_expert_intermediate_size": 7688,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "routed_scaling_factor": 1.0,
            "n_group": 1,
            "topk_group": 1,
            "norm_topk_prob": True,
        },
        aliases={
            "rms_norm_eps": ("layer_norm_epsilon",),
            "hidden_act": ("mlp_hidden_act",),
            "layer_types": ("layers_block_type", "hybrid_override_pattern", "layer_types"),
            "head_dim": ("head_dim", "attention_head_dim"),
            "num_experts": ("n_routed_experts", "num_local_experts"),
            "n_groups": ("n_groups", "mamba_n_groups"),
            "conv_kernel": ("conv_kernel", "mamba_d_conv"),
            "use_conv_bias": ("use_conv_bias", "mamba_conv_bias"),
            "mamba_proj_bias": ("use_bias",),
            # Read by transformers and by NVIDIA's code in different ways.
            "time_step_limit": ("time_step_limit", "mamba_dt_limit"),
        },
        norm=LATE_RMS,
        gated=False,
        kinds=(FULL, LINEAR, DENSE, SPARSE),
        lists_layer_types=True,
        layer_extras=mixer_rules.nemotron_layers,
        rope_on=layer_rules.never_rope,
        experts=hybrid_expert_rules.nemotron_experts,
        supported_values={"mamba_hidden_act": ("silu",), "sliding_window": (), "time_step_limit": _NO_LIMITS},
        own_names={"input_layernorm": "norm", "post_attention_layernorm": "norm"},
    ),
}
