"""Rules of families with recurrent layers for experts: for each layer its mixture, or None; see `expert_rules`."""

from __future__ import annotations

from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.checkpoint.families.expert_rules import make_experts
from llmcli.checkpoint.families.layer_rules import SPARSE
from llmcli.model import ExpertsConfig


def jamba_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """Jamba: every n-th layer, at an offset; weights are not divided by their sum. One expert means none."""
    if keys.integer("num_experts") == 1:
        return [None] * layers
    period, offset = keys.integer("expert_layer_period"), keys.integer("expert_layer_offset", minimum=0)
    experts = make_experts(keys, "intermediate_size")
    return [experts if index % period == offset else None for index in range(layers)]


def nemotron_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """Nemotron 3: the router of DeepSeek-V3, and experts without gates, in a latent in the larger models."""
    kinds = keys.get("layer_types")
    kinds = kinds if isinstance(kinds, list | str) and len(kinds) == layers else [""] * layers
    sparse = [kind in (SPARSE, "E") for kind in kinds]
    if not any(sparse):
        return [None] * layers
    experts = make_experts(
        keys,
        "moe_intermediate_size",
        score="sigmoid",
        group_score="best_two",
        groups=keys.integer("n_group"),
        groups_chosen=keys.integer("topk_group"),
        selection_bias=True,
        normalized=keys.flag("norm_topk_prob"),
        scale=keys.number("routed_scaling_factor"),
        float32_router=True,
        gated=False,
        latent_size=keys.optional_integer("moe_latent_size"),
        shared_size=keys.integer("moe_shared_expert_intermediate_size"),
    )
    return [experts if has else None for has in sparse]


def lfm2_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """LFM2: after the first layers; sigmoid scores, and perhaps a bias that affects only the choice."""
    experts = make_experts(
        keys,
        "moe_intermediate_size",
        score="sigmoid",
        selection_bias=keys.flag("use_expert_bias"),
        normalized=keys.flag("norm_topk_prob"),
        scale=keys.number("routed_scaling_factor"),
    )
    dense = keys.integer("num_dense_layers", minimum=0)
    return [None if index < dense else experts for index in range(layers)]


def lara_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """Lara Mini: every layer; a router in float32, and a shared expert without a gate."""
    experts = make_experts(
        keys,
        "moe_intermediate_size",
        normalized=keys.flag("norm_topk_prob"),
        float32_router=True,
        shared_size=keys.optional_integer("shared_expert_intermediate_size", minimum=0) or 0,
    )
    return [experts] * layers
