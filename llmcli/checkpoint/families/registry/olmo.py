"""OLMo."""

from __future__ import annotations

from llmcli.checkpoint.families import expert_rules, extra_rules, layer_rules
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.rope_keys import RopeRules
from llmcli.checkpoint.families.styles import BASE, EXPERT_COUNT, LATE_RMS, POST
from llmcli.model import NormStyle

FAMILIES: dict[str, Family] = {
    "olmo": Family(
        {**BASE, "rms_norm_eps": 1e-5},
        aliases={"rms_norm_eps": ()},
        norm=NormStyle("layer", weight=False),
        extras=extra_rules.olmo_extras,
        rope=RopeRules(float32=True),
    ),
    "olmo2": Family(
        {**BASE, "rms_norm_eps": 1e-5},
        norm=LATE_RMS,
        placement="post",
        qk_norm="whole",
        rope=RopeRules(float32=True),
        own_names=POST,
    ),
    "olmo3": Family(
        {**BASE, "rope_theta": 5e5, "rms_norm_eps": 1e-5, "sliding_window": 4096, "sliding_window_pattern": 4},
        norm=LATE_RMS,
        placement="post",
        qk_norm="whole",
        layer_types=layer_rules.mostly_sliding,
        lists_layer_types=True,
        rope=RopeRules(scaled_layers_only=layer_rules.FULL, local_theta=5e5, by_layer_type=True, float32=True),
        own_names=POST,
    ),
    "olmoe": Family(
        {**BASE, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "num_experts": 64, "num_experts_per_tok": 8},
        aliases=EXPERT_COUNT,
        qk_norm="whole",
        experts=expert_rules.olmoe_experts,
        extras=extra_rules.olmo_extras,
        # Only one of transformers' attention implementations applies the window.
        supported_values={"sliding_window": ()},
    ),
    "flex_olmo": Family(
        {**BASE, "rope_theta": 5e5, "max_position_embeddings": 4096, "num_experts": 7, "num_experts_per_tok": 5},
        aliases=EXPERT_COUNT,
        norm=LATE_RMS,
        placement="post",
        qk_norm="whole",
        rope=RopeRules(float32=True),
        experts=expert_rules.olmoe_experts,
        own_names=POST,
    ),
}
