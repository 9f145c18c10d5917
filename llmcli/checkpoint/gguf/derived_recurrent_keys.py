"""Keys of `config.json` for models with recurrent layers, from the metadata and tensors of GGUF files."""

from __future__ import annotations

from typing import Any

from llmcli.checkpoint.families.layer_rules import DENSE, FULL, LINEAR, SPARSE
from llmcli.checkpoint.gguf.derived_expert_keys import deepseek_keys, has_experts
from llmcli.checkpoint.gguf.derived_keys import granite_keys
from llmcli.checkpoint.gguf.keys import ArchitectureKeys


def mamba_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Mamba and Falcon Mamba."""
    # Whether there are norms is known from the family.
    keys.flag("ssm.dt_b_c_rms", False)
    return {
        "mamba_width": keys.integer("ssm.inner_size"),
        "mamba_d_state": keys.integer("ssm.state_size"),
        "mamba_dt_rank": keys.integer("ssm.time_step_rank"),
        "mamba_d_conv": keys.integer("ssm.conv_kernel"),
        "mamba_conv_bias": _any_has(keys, "ssm_conv1d.bias"),
        "mamba_proj_bias": _any_has(keys, "ssm_in.bias"),
    }


def mamba2_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Mamba-2 alone. What files call the rank of time steps is the number of heads."""
    heads = keys.integer("ssm.time_step_rank")
    return {
        "num_heads": heads,
        "mamba_head_dim": keys.integer("ssm.inner_size") // heads,
        "n_groups": keys.integer("ssm.group_count"),
        "state_size": keys.integer("ssm.state_size"),
        "conv_kernel": keys.integer("ssm.conv_kernel"),
        "use_conv_bias": _any_has(keys, "ssm_conv1d.bias"),
        "use_bias": _any_has(keys, "ssm_in.bias"),
    }


def granite_hybrid_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Granite 4 H, and Bamba, which has Granite's architecture and rotary positions."""
    return granite_keys(keys) | _mamba2_of_hybrid(keys) | {"layer_types": _types_by_heads(keys)}


def falcon_h1_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Falcon-H1: the weights have been multiplied by all factors. If there is a norm, it follows the gate."""
    return _mamba2_of_hybrid(keys) | {
        "mamba_d_ssm": keys.integer("ssm.inner_size"),
        "mamba_rms_norm": _any_has(keys, "ssm_norm.weight"),
        "mamba_norm_before_gate": False,
    }


def jamba_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Jamba: the tensors show which layers have experts."""
    sparse = [index for index in range(keys.layers()) if has_experts(keys.header, index)]
    period = sparse[1] - sparse[0] if len(sparse) > 1 else keys.layers()
    return mamba_keys(keys) | {
        "layer_types": _types_by_heads(keys),
        "num_experts": keys.integer("expert_count") if sparse else 1,
        "expert_layer_period": period,
        "expert_layer_offset": sparse[0] if sparse else 0,
    }


def nemotron_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Nemotron-H and 3: a block is attention if it has heads, feed-forward if it has a width, else recurrent."""
    widths = keys.integers("feed_forward_length", 0, minimum=0)
    kinds = [
        kind if kind == FULL or not width else SPARSE if has_experts(keys.header, index) else DENSE
        for index, (kind, width) in enumerate(zip(_types_by_heads(keys), widths, strict=True))
    ]
    heads = keys.integer("ssm.time_step_rank")
    return {
        "layer_types": kinds,
        "hidden_act": "relu2",
        "mamba_num_heads": heads,
        "mamba_head_dim": keys.integer("ssm.inner_size") // heads,
        "n_groups": keys.integer("ssm.group_count"),
        "ssm_state_size": keys.integer("ssm.state_size"),
        "conv_kernel": keys.integer("ssm.conv_kernel"),
        "use_conv_bias": _any_has(keys, "ssm_conv1d.bias"),
        "mamba_proj_bias": _any_has(keys, "ssm_in.bias"),
        "n_group": keys.optional_integer("expert_group_count") or 1,
        "topk_group": keys.optional_integer("expert_group_used_count") or 1,
        "moe_shared_expert_intermediate_size": keys.optional_integer("expert_shared_feed_forward_length"),
        "moe_latent_size": keys.optional_integer("moe_latent_size"),
        "routed_scaling_factor": 1.0,
        "norm_topk_prob": False,
    }


def kimi_linear_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Kimi-Linear: latent attention in the blocks with heads."""
    size = keys.integer("kda.head_dim")
    return deepseek_keys(keys) | {
        "layer_types": _types_by_heads(keys),
        "linear_attn_config": {
            "head_dim": size,
            "num_heads": keys.usual("attention.head_count"),
            "short_conv_kernel_size": keys.integer("ssm.conv_kernel"),
        },
    }


def _mamba2_of_hybrid(keys: ArchitectureKeys) -> dict[str, Any]:
    inner, heads = keys.integer("ssm.inner_size"), keys.integer("ssm.time_step_rank")
    return {
        "mamba_n_heads": heads,
        "mamba_d_head": inner // heads,
        "mamba_n_groups": keys.integer("ssm.group_count"),
        "mamba_d_state": keys.integer("ssm.state_size"),
        "mamba_d_conv": keys.integer("ssm.conv_kernel"),
        "mamba_expand": max(1, inner // keys.integer("embedding_length")),
        "mamba_conv_bias": _any_has(keys, "ssm_conv1d.bias"),
        "mamba_proj_bias": _any_has(keys, "ssm_in.bias"),
    }


def _types_by_heads(keys: ArchitectureKeys) -> list[str]:
    """The types of layers: those without key-value heads have no attention."""
    return [FULL if count else LINEAR for count in keys.integers("attention.head_count_kv", minimum=0)]


def _any_has(keys: ArchitectureKeys, part: str) -> bool:
    return any(f"blk.{index}.{part}" in keys.header.tensors for index in range(keys.layers()))
