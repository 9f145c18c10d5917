"""Phi and BitNet."""

from __future__ import annotations

from llmcli.checkpoint.families import expert_rules, extra_rules, layer_rules
from llmcli.checkpoint.families.bias_keys import ALWAYS
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.rope_keys import RopeRules
from llmcli.checkpoint.families.styles import BASE, EXPERT_COUNT, LAYER_EPS, LAYER_NORM, LAYER_NORM_BASE

_PHI4_MULTIMODAL = Family(
    {**BASE, "rms_norm_eps": 1e-5, "num_key_value_heads": 8, "max_position_embeddings": 131072}
    | {"sliding_window": None, "original_max_position_embeddings": 4096},
    layer_types=layer_rules.all_sliding,
    rope=RopeRules(old_names=(("su", "longrope"), ("yarn", "longrope")), partial=True),
    adapters=True,
)

FAMILIES: dict[str, Family] = {
    "phi": Family(
        {**LAYER_NORM_BASE, "hidden_act": "gelu_new", "partial_rotary_factor": 0.5},
        aliases=LAYER_EPS,
        norm=LAYER_NORM,
        placement="parallel_shared",
        gated=False,
        rope=RopeRules(partial=True),
        biases=ALWAYS,
        # Norms of queries and keys; no published model has them.
        supported_values={"qk_layernorm": (False,)},
    ),
    # Phi-3, 3.5, 4, 4-mini.
    "phi3": Family(
        {**BASE, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "sliding_window": None}
        | {"original_max_position_embeddings": 4096},
        layer_types=layer_rules.all_sliding,
        rope=RopeRules(old_names=(("su", "longrope"), ("yarn", "longrope")), partial=True),
    ),
    "phi4_multimodal": _PHI4_MULTIMODAL,
    # The name in the published files.
    "phi4mm": _PHI4_MULTIMODAL,
    # Phi-3.5-MoE, Phi-tiny-MoE, Phi-mini-MoE.
    "phimoe": Family(
        {**BASE, "rope_theta": 1e6, "rms_norm_eps": 1e-5, "num_key_value_heads": 8, "sliding_window": None}
        | {"num_experts": 16, "num_experts_per_tok": 2, "router_jitter_noise": 0.01}
        | {"max_position_embeddings": 131072},
        aliases={**EXPERT_COUNT, "original_max_position_embeddings": ()},
        norm=LAYER_NORM,
        layer_types=layer_rules.all_sliding,
        rope=RopeRules(old_names=(("su", "longrope"),), stated_scales=True),
        experts=expert_rules.phimoe_experts,
    ),
    # BitNet b1.58 2B4T.
    "bitnet": Family(
        {**BASE, "hidden_act": "relu2", "rope_theta": 5e5, "rms_norm_eps": 1e-5, "num_key_value_heads": 5},
        extras=extra_rules.bitnet_extras,
    ),
}
