"""Cohere."""

from __future__ import annotations

from llmcli.checkpoint.families import expert_rules, extra_rules, layer_rules
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.rope_keys import RopeRules
from llmcli.checkpoint.families.styles import (
    LAYER_EPS,
    LAYER_NORM_BASE,
    LAYER_NORM_WITHOUT_BIAS,
    WINDOW_PATTERN,
)

_COHERE = {**LAYER_NORM_BASE, "logit_scale": 0.0625, "max_position_embeddings": 8192}

FAMILIES: dict[str, Family] = {
    # The text model of North-Micro-Vision.
    "cohere_compass_text": Family(
        {**_COHERE, "logit_scale": 1.0, "sliding_window": 4096},
        aliases=LAYER_EPS,
        norm=LAYER_NORM_WITHOUT_BIAS,
        placement="parallel_shared",
        lists_layer_types=True,
        rope_on=layer_rules.rope_where_stated,
        rope=RopeRules(by_layer_type=True),
        extras=extra_rules.compass_extras,
    ),
    "cohere": Family(
        {**_COHERE, "rope_theta": 5e5},
        aliases=LAYER_EPS,
        norm=LAYER_NORM_WITHOUT_BIAS,
        placement="parallel_shared",
        rope=RopeRules(float32=True),
        extras=extra_rules.cohere_extras,
        paired=True,
    ),
    "cohere2": Family(
        {**_COHERE, "sliding_window": 4096, "sliding_window_pattern": 4},
        aliases={**LAYER_EPS, **WINDOW_PATTERN},
        norm=LAYER_NORM_WITHOUT_BIAS,
        placement="parallel_shared",
        layer_types=layer_rules.mostly_sliding,
        lists_layer_types=True,
        rope_on=layer_rules.sliding_rope,
        rope=RopeRules(float32=True),
        extras=extra_rules.cohere_extras,
        paired=True,
    ),
    # Command A+.
    "cohere2_moe": Family(
        {**_COHERE, "head_dim": 128, "sliding_window": 4096, "sliding_window_pattern": 4}
        | {"num_experts": 8, "num_experts_per_tok": 2, "num_shared_experts": 0, "norm_topk_prob": True}
        | {"first_k_dense_replace": 0, "prefix_dense_sliding_window_pattern": 1, "expert_selection_fn": "softmax"}
        | {"shared_expert_combination_strategy": "average"},
        aliases={**LAYER_EPS, **WINDOW_PATTERN},
        norm=LAYER_NORM_WITHOUT_BIAS,
        placement="parallel_shared",
        layer_types=layer_rules.cohere_moe_types,
        lists_layer_types=True,
        rope_on=layer_rules.sliding_or_dense_rope,
        rope=RopeRules(float32=True),
        experts=expert_rules.cohere_experts,
        extras=extra_rules.cohere_moe_extras,
        # The configuration class overwrites it.
        supported_values={"rope_scaling": ()},
        paired=True,
    ),
}
