"""Build a `ModelConfig` from the metadata of a GGUF file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.layer_rules import FULL, SLIDING
from llmcli.checkpoint.families.registry import FAMILIES
from llmcli.checkpoint.gguf.derived_expert_keys import has_experts
from llmcli.checkpoint.gguf.families import Architecture, architecture_of
from llmcli.checkpoint.gguf.header import GGUFHeader
from llmcli.checkpoint.gguf.keys import ArchitectureKeys
from llmcli.checkpoint.gguf.refused_keys import refuse_unknown_values
from llmcli.checkpoint.gguf.rope_keys import ReadValues, frequency_divisors, rope_parameters
from llmcli.checkpoint.huggingface.config import FamilyConfig, model_config, with_usual_shape
from llmcli.checkpoint.huggingface.names import TensorNames
from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.model import ExpertsConfig, FrequencyFactors, Heads, LayerConfig, ModelConfig

# `expert_gating_func` numbers, and the router scores that each may stand for.
_GATING = {
    1: ("softmax", "softmax_of_chosen"),
    2: ("sigmoid", "sigmoid_of_chosen"),
    3: ("softmax_of_chosen",),
    4: ("sqrt_softplus",),
}
_LARGEST_HEAD = 1 << 16
_MOST_EXPERTS = 10_000
# Biases in Hugging Face's names, and the GGUF tensors that show that a model has them.
_BIASES = {
    "self_attn.q_proj": ("attn_q", "attn_qkv", "attn_q_a", "attn_kv_a_mqa"),
    "self_attn.o_proj": ("attn_output",),
    "mlp.down_proj": ("ffn_down", "ffn_down_shexp"),
}


def gguf_model_config(header: GGUFHeader, read: ReadValues) -> ModelConfig:
    """The `ModelConfig` of a GGUF file; `read` returns the values of the small tensors for RoPE frequencies.

    Raises:
        UnsupportedModelError: an unknown architecture or RoPE scaling, recurrent layers.
        CheckpointError: missing or contradictory sizes.
    """
    architecture, keys = architecture_of(header)
    model_type, values = _config_values(architecture, keys, read)
    family = FAMILIES[model_type]
    if architecture.qk_norm is not None:
        family = replace(family, qk_norm=architecture.qk_norm)
    description = FamilyConfig(model_type, family, ConfigKeys(values, header.path, family.defaults))
    config = model_config(description, _names(header, keys))
    layers = tuple(_layer(header, keys, layer, index) for index, layer in enumerate(config.layers))
    divided = [layer for layer in layers if not (architecture.window_heads and layer.is_windowed)]
    rope = next((layer.rope for layer in divided if layer.rope is not None), None)
    divisors = None if rope is None else frequency_divisors(header, read, rope.rotary_dim // 2)
    if divisors is not None:
        factors = FrequencyFactors(divisors)
        layers = tuple(_divided(layer, factors) if layer in divided else layer for layer in layers)
    config = _with_shapes(config, architecture, keys, layers)
    refuse_unknown_values(keys)
    return config


def config_values(header: GGUFHeader, read: ReadValues) -> tuple[str, dict[str, Any]]:
    """The `model_type` of a GGUF file, and the values that a `config.json` of that family would have.

    Raises:
        UnsupportedModelError: an unknown architecture or RoPE scaling.
        CheckpointError: missing or contradictory sizes.
    """
    return _config_values(*architecture_of(header), read)


def _config_values(architecture: Architecture, keys: ArchitectureKeys, read: ReadValues) -> tuple[str, dict[str, Any]]:
    model_type = architecture.family if isinstance(architecture.family, str) else architecture.family(keys)
    values = _values(keys, architecture, model_type, FAMILIES[model_type])
    values |= architecture.derived(keys)
    values["rope_parameters"] = rope_parameters(keys, model_type, read)
    if not architecture.window_heads:
        _add_rotated_share(keys, values)
    rope = values["rope_parameters"]
    if FAMILIES[model_type].rope.by_layer_type:
        # RoPE scaling applies to full-attention layers only.
        own = {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope}
        local = own | {"rope_type": "default", "rope_theta": values.get("rope_local_base_freq", rope["rope_theta"])}
        if keys.has("rope.dimension_count_swa") and not architecture.window_heads:
            local["partial_rotary_factor"] = _share(keys.integer("rope.dimension_count_swa"), values["head_dim"])
        values["rope_parameters"] = {FULL: rope, SLIDING: local}
    elif "original_max_position_embeddings" in rope:
        # Some families have a top-level default, which would override the nested value.
        values["original_max_position_embeddings"] = rope["original_max_position_embeddings"]
    return model_type, values


def _values(keys: ArchitectureKeys, architecture: Architecture, model_type: str, family: Family) -> dict[str, Any]:
    """The metadata in the terms of the family's `config.json`; only constants are left to the family's defaults."""
    header = keys.header
    hidden, heads = keys.integer("embedding_length"), _heads(keys, architecture)
    head_dim = _key_size(keys, heads)
    if head_dim > _LARGEST_HEAD:
        raise CheckpointError(f"{header.path} has heads of {head_dim} values, which no model has.")
    experts = keys.optional_integer("expert_count", maximum=_MOST_EXPERTS)
    dense = keys.usual_positive("feed_forward_length", 0)
    single = keys.optional_integer("expert_feed_forward_length") or dense
    inner = dense if architecture.dense_size or not keys.optional_integer("expert_count") else single
    inner = inner or single
    if not inner and not architecture.recurrent:
        # Both are missing or 0: raise the error for a missing size.
        inner = keys.integer("feed_forward_length")
    kinds = ("layer_norm_rms_epsilon", "layer_norm_epsilon")
    # The converter of Phi-3.5-MoE writes its epsilon under the other key.
    usual, other = kinds if family.norm.kind == "rms" else kinds[::-1]
    eps = usual if keys.has(f"attention.{usual}") or not keys.has(f"attention.{other}") else other
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(f"{header.path} has no matrix token_embd.weight, which every model needs.")
    shared = header.tensors.get(f"blk.{_first_expert_layer(keys)}.ffn_up_shexp.weight")
    return {
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "num_hidden_layers": keys.layers(),
        "num_attention_heads": heads,
        "num_key_value_heads": _heads(keys, architecture, "attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": keys.integer("context_length"),
        "rms_norm_eps": keys.number(f"attention.{eps}"),
        "num_experts": experts,
        "num_experts_per_tok": keys.integer("expert_used_count") if experts else None,
        "moe_intermediate_size": single,
        "shared_expert_intermediate_size": 0 if shared is None else shared.rows,
        "shared_intermediate_size": 0 if shared is None else shared.rows,
        "intermediate_size": inner or None,
        **_windows(keys, architecture, model_type),
    }


def _heads(
    keys: ArchitectureKeys, architecture: Architecture, key: str = "attention.head_count", default: int | None = None
) -> int:
    """The number of heads that most layers with attention have; 1 if no layer has any."""
    return keys.usual_positive(key, default or 1) if architecture.recurrent else keys.usual(key, default)


def _key_size(keys: ArchitectureKeys, heads: int) -> int:
    """The size of a key, which defaults to the share of the hidden size that one of `heads` heads has."""
    hidden = keys.integer("embedding_length")
    return keys.integer("attention.key_length", None if hidden % heads else hidden // heads)


def _with_shapes(
    config: ModelConfig, architecture: Architecture, keys: ArchitectureKeys, layers: Sequence[LayerConfig]
) -> ModelConfig:
    """The model with its `layers`, and with the file's sizes of each of them."""
    if config.latent is not None:
        return replace(config, layers=tuple(layers))
    least = 0 if architecture.recurrent else 1
    counts = keys.integers("attention.head_count", minimum=least)
    kv_counts = keys.integers("attention.head_count_kv", config.num_heads, minimum=least)
    key_dim = _key_size(keys, counts[0] or config.num_heads)
    usual = sliding = key_dim, keys.integer("attention.value_length", key_dim)
    if architecture.window_heads:
        size = keys.integer("attention.key_length_swa", key_dim)
        sliding = size, keys.integer("attention.value_length_swa", size)
    widths: Sequence[int | None] = [None] * len(layers)
    if isinstance(keys.header.metadata.get(f"{keys.architecture}.feed_forward_length"), list):
        widths = keys.integers("feed_forward_length", minimum=0)
    shaped = []
    for layer, count, kv_count, width in zip(layers, counts, kv_counts, widths, strict=True):
        if not layer.attends:
            shaped.append(replace(layer, intermediate_size=None if layer.parts == "mixer" else width))
            continue
        if count % max(1, kv_count):
            raise CheckpointError(
                f"{keys.header.path}: {count} attention heads cannot share {kv_count} key-value heads evenly."
            )
        heads = Heads(count, kv_count, *(sliding if layer.is_windowed else usual))
        dense = layer.experts is None and layer.parts != "mixer"
        shaped.append(replace(layer, heads=heads, intermediate_size=width if dense else None))
    return with_usual_shape(replace(config, layers=tuple(shaped)))


def _windows(keys: ArchitectureKeys, architecture: Architecture, model_type: str) -> dict[str, Any]:
    """`sliding_window`, and `layer_types` if the file says which layers have it."""
    if not architecture.window:
        return {"sliding_window": None}
    if model_type == "gemma2" and not keys.has("attention.sliding_window"):
        return {}
    window = keys.optional_integer("attention.sliding_window")
    key = "attention.sliding_window_pattern"
    if window is None or not keys.has(key):
        return {"sliding_window": window}
    pattern = keys.header.metadata[f"{keys.architecture}.{key}"]
    layers = keys.layers()
    if isinstance(pattern, list):
        if len(pattern) < layers or not set(map(type, pattern)) <= {bool, int}:
            raise CheckpointError(f"{keys.header.path}: {key} must say true or false for each of {layers} layers.")
        sliding = [bool(value) for value in pattern[:layers]]
    else:
        period = keys.integer(key)
        sliding = [index % period < period - 1 for index in range(layers)]
    return {"sliding_window": window, "layer_types": [SLIDING if slides else FULL for slides in sliding]}


def _first_expert_layer(keys: ArchitectureKeys) -> int:
    return next((index for index in range(keys.layers()) if has_experts(keys.header, index)), 0)


def _add_rotated_share(keys: ArchitectureKeys, values: dict[str, Any]) -> None:
    """Add the rotated share of each head, whatever the family's default; latent attention has its own sizes."""
    head_dim = values["head_dim"]
    size = keys.integer("rope.dimension_count", head_dim)
    if size == head_dim:
        values["partial_rotary_factor"] = 1.0
    elif "qk_rope_head_dim" not in values:
        values["rope_parameters"]["partial_rotary_factor"] = _share(size, head_dim)


def _share(size: int, head_dim: int) -> float:
    """The rotated share of a head, rounded up: times the head size it never truncates to one pair less."""
    return size / head_dim if size == head_dim else math.nextafter(size / head_dim, math.inf)


def _names(header: GGUFHeader, keys: ArchitectureKeys) -> TensorNames:
    """Names of the optional parts that the file holds, as `model_config` looks them up."""
    names = [f"lm_head.{kind}" for kind in ("weight", "bias") if f"output.{kind}" in header.tensors]
    for theirs, ours in _BIASES.items():
        layers = range(keys.layers())
        if any(f"blk.{index}.{name}.bias" in header.tensors for name in ours for index in layers):
            names.append(f"model.layers.0.{theirs}.bias")
    return TensorNames(names, {})


def _layer(header: GGUFHeader, keys: ArchitectureKeys, layer: LayerConfig, index: int) -> LayerConfig:
    """The layer, with the file's own settings of its experts in place of the family's."""
    if layer.experts is None:
        return layer
    experts = layer.experts
    known = _GATING.get(keys.integer("expert_gating_func", 0, minimum=0), (experts.score,))
    if experts.score not in known:
        raise UnsupportedModelError(
            f"{header.path} weights experts with gating function {keys.integer('expert_gating_func')}, "
            f"which is not supported for {keys.architecture}."
        )
    stated: ExpertsConfig = replace(
        experts,
        normalized=keys.flag("expert_weights_norm", experts.normalized),
        # If shared and other experts are averaged, the share of both is the same.
        scale=(keys.number("expert_weights_scale", 0.0) or 1.0) * experts.shared_scale,
        selection_bias=f"blk.{index}.exp_probs_b.bias" in header.tensors,
    )
    return replace(layer, experts=stated)


def _divided(layer: LayerConfig, factors: FrequencyFactors) -> LayerConfig:
    return layer if layer.rope is None else replace(layer, rope=replace(layer.rope, scaling=factors))
