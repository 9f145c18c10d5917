"""Keys of `config.json` for models with gated delta nets or short convolutions, from the metadata of GGUF files."""

from __future__ import annotations

from typing import Any

from llmcli.checkpoint.families.config_keys import in_short
from llmcli.checkpoint.families.layer_rules import CONV, FULL, LINEAR
from llmcli.checkpoint.gguf.derived_expert_keys import has_experts, qwen_experts_keys
from llmcli.checkpoint.gguf.keys import ArchitectureKeys
from llmcli.errors import CheckpointError


def qwen35_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Qwen3.5: the converter moves value heads, so that those of a key head are not neighbors."""
    return _delta_keys(keys) | {"linear_tiled": True}


def qwen35_experts_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Qwen3.5 with experts."""
    return qwen35_keys(keys) | qwen_experts_keys(keys)


def qwen3next_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """Qwen3-Next: value heads are those of transformers."""
    return _delta_keys(keys) | qwen_experts_keys(keys)


def lfm2_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """LFM2: layers without key-value heads have convolutions; the file states the width that is computed with."""
    heads = keys.integers("attention.head_count_kv", minimum=0)
    return {
        "layer_types": [FULL if count else CONV for count in heads],
        "conv_L_cache": keys.integer("shortconv.l_cache"),
        "block_auto_adjust_ff_dim": False,
    }


def lfm2_experts_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    """LFM2 with experts: the tensors show which layers have them."""
    keys.optional_integer("leading_dense_block_count")
    sparse = (index for index in range(keys.layers()) if has_experts(keys.header, index))
    return lfm2_keys(keys) | {"num_dense_layers": next(sparse, keys.layers())}


def _delta_keys(keys: ArchitectureKeys) -> dict[str, Any]:
    value_heads = keys.integer("ssm.time_step_rank")
    inner = keys.integer("ssm.inner_size")
    if inner % value_heads:
        raise CheckpointError(f"{keys.header.path}: {value_heads} value heads cannot have {inner} values together.")
    return {
        "layer_types": _types(keys),
        "linear_num_key_heads": keys.integer("ssm.group_count"),
        "linear_num_value_heads": value_heads,
        "linear_key_head_dim": keys.integer("ssm.state_size"),
        "linear_value_head_dim": inner // value_heads,
        "linear_conv_kernel_dim": keys.integer("ssm.conv_kernel"),
    }


def _types(keys: ArchitectureKeys) -> list[str]:
    """The types of layers: listed, or attention at an interval."""
    interval, layers = keys.integer("full_attention_interval", 4), keys.layers()
    key = "attention.recurrent_layers"
    if not keys.has(key):
        return [LINEAR if (index + 1) % interval else FULL for index in range(layers)]
    listed = keys.header.metadata[f"{keys.architecture}.{key}"]
    if not isinstance(listed, list) or len(listed) < layers or not set(map(type, listed)) <= {bool, int}:
        raise CheckpointError(
            f"{keys.header.path} has {key} = {in_short(listed)}; true or false for each of {layers} layers is needed."
        )
    return [LINEAR if recurrent else FULL for recurrent in listed[:layers]]
