"""Granite."""

from __future__ import annotations

from llmcli.checkpoint.families import expert_rules, extra_rules, layer_rules, mixer_rules
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.layer_rules import FULL, LINEAR
from llmcli.checkpoint.families.rope_keys import RopeRules
from llmcli.checkpoint.families.styles import BASE, EXPERT_COUNT, MAMBA2

_GRANITE = {
    **BASE,
    "embedding_multiplier": 1.0,
    "attention_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "logits_scaling": 1.0,
    "num_experts_per_tok": 2,
}

FAMILIES: dict[str, Family] = {
    "granite": Family(_GRANITE, extras=extra_rules.granite_scales),
    "granitemoe": Family(
        {**_GRANITE, "num_experts": 8},
        aliases={**EXPERT_COUNT, "shared_intermediate_size": ()},
        experts=expert_rules.granite_experts,
        extras=extra_rules.granite_scales,
    ),
    "granitemoeshared": Family(
        {**_GRANITE, "num_experts": 8, "shared_intermediate_size": 0},
        aliases=EXPERT_COUNT,
        experts=expert_rules.granite_experts,
        extras=extra_rules.granite_scales,
    ),
    # Granite 4: most layers are Mamba-2, none in some models.
    "granitemoehybrid": Family(
        {**_GRANITE, **MAMBA2, "num_experts": 8, "shared_intermediate_size": 1024},
        aliases={**EXPERT_COUNT, "layer_types": ("layer_types", "layers_block_type")},
        kinds=(FULL, LINEAR),
        layer_types=mixer_rules.all_linear,
        lists_layer_types=True,
        layer_extras=mixer_rules.granite_layers,
        rope_on=layer_rules.rope_if_named,
        experts=expert_rules.granite_experts,
        extras=extra_rules.granite_hybrid_extras,
    ),
    "granite_swa": Family(
        {**_GRANITE, "rms_norm_eps": 1e-5, "num_key_value_heads": 4, "sliding_window": 128}
        | {"max_position_embeddings": 8192},
        sinks=True,
        layer_types=layer_rules.first_of_four_full,
        lists_layer_types=True,
        rope=RopeRules(theta_of_layers="layer_rope_theta"),
        extras=extra_rules.granite_scales,
    ),
    "granitemoe_swa": Family(
        {**_GRANITE, "num_experts": 8, "shared_intermediate_size": 0, "sliding_window": 128},
        aliases=EXPERT_COUNT,
        sinks=True,
        layer_types=layer_rules.first_of_four_full,
        lists_layer_types=True,
        rope=RopeRules(theta_of_layers="layer_rope_theta"),
        experts=expert_rules.granite_experts,
        extras=extra_rules.granite_scales,
    ),
}
