"""Rules of families with gated delta nets or short convolutions in place of most attention layers."""

from __future__ import annotations

from typing import Any

from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.checkpoint.families.layer_rules import CONV, FULL, LINEAR, SLIDING
from llmcli.errors import CheckpointError
from llmcli.model import AttentionGate
from llmcli.model.mixer_config import DeltaConfig, ShortConvConfig

# Layer types if the file does not list them; one name for each of `layers` layers.


def last_of_interval_full(keys: ConfigKeys, layers: int) -> list[str]:
    """Qwen3-Next and Qwen3.5: attention in every `full_attention_interval`-th layer."""
    interval = keys.integer("full_attention_interval")
    return [LINEAR if (index + 1) % interval else FULL for index in range(layers)]


def lara_types(keys: ConfigKeys, layers: int) -> list[str]:
    """Lara Mini: five layers that repeat."""
    pattern = (LINEAR, SLIDING, LINEAR, FULL, SLIDING)
    return [pattern[index % len(pattern)] for index in range(layers)]


def fourth_or_last_full(keys: ConfigKeys, layers: int) -> list[str]:
    """Olmo Hybrid: attention in every fourth layer, or in the last of fewer."""
    kinds = [FULL if index % 4 == 3 else LINEAR for index in range(layers)]
    return kinds if FULL in kinds else [*kinds[:-1], FULL]


def listed_full(keys: ConfigKeys, layers: int) -> list[str]:
    """LFM2: `full_attn_idxs` are the layers with attention; by default all."""
    listed = keys.integers("full_attn_idxs")
    return [FULL if listed is None or index in listed else CONV for index in range(layers)]


def lfm3_types(keys: ConfigKeys, layers: int) -> list[str]:
    """LFM3: of four layers one has full attention and one a window, but not the first of all."""
    kinds = (SLIDING, CONV, FULL, CONV)
    return [kinds[index % 4] if index else CONV for index in range(layers)]


# RoPE: for each layer, given the layer types, whether it has RoPE.


def rope_if_stated(keys: ConfigKeys, kinds: list[str]) -> list[bool]:
    """Olmo Hybrid: only if the file states theta."""
    sections = [part for part in map(keys.section, ("rope_parameters", "rope_scaling")) if part is not None]
    stated = [part.get("rope_theta") for part in sections] or [keys.values.get("rope_theta")]
    return [any(theta is not None for theta in stated)] * len(kinds)


# Further fields of `LayerConfig`: for each layer, given the layer types.


def conv_layers(keys: ConfigKeys, kinds: list[str]) -> list[dict[str, Any]]:
    """LFM2 and LFM3: short convolutions, which see as many tokens as they are wide."""
    width = keys.integer("conv_L_cache")
    mixer = ShortConvConfig(width, bias=keys.flag("conv_bias"))
    return [{"mixer": mixer, "window": width} if kind == CONV else {} for kind in kinds]


def qwen_delta_layers(keys: ConfigKeys, kinds: list[str]) -> list[dict[str, Any]]:
    """Qwen3-Next and Qwen3.5: gated delta nets."""
    mixer = delta_mixer(keys)
    return [{"mixer": mixer} if kind == LINEAR else {} for kind in kinds]


def lara_delta_layers(keys: ConfigKeys, kinds: list[str]) -> list[dict[str, Any]]:
    """Lara Mini: gated delta nets whose output is rounded late."""
    mixer = delta_mixer(keys, late_rounding=True)
    return [{"mixer": mixer} if kind == LINEAR else {} for kind in kinds]


def olmo_delta_layers(keys: ConfigKeys, kinds: list[str]) -> list[dict[str, Any]]:
    """Olmo Hybrid: gated delta nets that may flip what they remember; layers with attention normalize its output."""
    heads = keys.optional_integer("linear_num_key_heads") or keys.integer("num_attention_heads")
    key_dim = keys.optional_integer("linear_key_head_dim") or int(0.75 * keys.integer("hidden_size") / heads)
    stated = {
        "linear_num_key_heads": heads,
        "linear_num_value_heads": keys.optional_integer("linear_num_value_heads")
        or keys.integer("num_attention_heads"),
        "linear_key_head_dim": key_dim,
        "linear_value_head_dim": keys.optional_integer("linear_value_head_dim") or 2 * key_dim,
        "linear_conv_kernel_dim": keys.get("linear_conv_kernel_dim"),
    }
    mixer = delta_mixer(
        ConfigKeys(stated, keys.path),
        beta_scale=2.0 if keys.flag("linear_allow_neg_eigval") else 1.0,
        # Fixed: not that of the model's other norms.
        norm_eps=1e-5,
    )
    return [{"mixer": mixer} if kind == LINEAR else {"placement": "post"} for kind in kinds]


def delta_mixer(keys: ConfigKeys, **options: Any) -> DeltaConfig:
    """The gated delta net of all layers that have one, with further `options`."""
    key_heads, value_heads = keys.integer("linear_num_key_heads"), keys.integer("linear_num_value_heads")
    if value_heads % key_heads:
        raise CheckpointError(f"{keys.path}: {value_heads} value heads cannot share {key_heads} key heads evenly.")
    return DeltaConfig(
        key_heads,
        value_heads,
        keys.integer("linear_key_head_dim"),
        keys.integer("linear_value_head_dim"),
        keys.integer("linear_conv_kernel_dim"),
        tiled=keys.flag("linear_tiled"),
        **options,
    )


# Further fields of `ModelConfig`.


def gated_attention(keys: ConfigKeys) -> dict[str, Any]:
    """Qwen3-Next and Qwen3.5: a gate for each value that attention has found."""
    return {"attention_gate": AttentionGate()}


def lfm2_width(keys: ConfigKeys) -> dict[str, Any]:
    """LFM2: the size of the feed-forward network is two thirds of the stated one, times a factor and rounded up."""
    width = keys.integer("intermediate_size")
    if keys.flag("block_auto_adjust_ff_dim"):
        width = int(2 * width / 3)
        if keys.get("block_ffn_dim_multiplier") is not None:
            multiple = keys.integer("block_multiple_of")
            width = -(-int(keys.positive("block_ffn_dim_multiplier") * width) // multiple) * multiple
    return {"intermediate_size": width}


def lfm3_extras(keys: ConfigKeys) -> dict[str, Any]:
    """LFM3: gates for heads, and norms of what parts of a block add, unless they are switched off."""
    return {
        "attention_gate": AttentionGate(per_head=True) if keys.flag("use_attention_gate") else None,
        "placement": "sandwich" if keys.flag("use_sandwich_norm") else "pre",
    }
