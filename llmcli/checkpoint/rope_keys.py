"""Rotary position keys of `config.json`, in the three generations that exist.

Up to transformers 4: `rope_theta` and `rope_scaling` at top level. From 5: one `rope_parameters` object, flat or nested
by layer type. A few families have names of their own. Which wins when several are there follows transformers 5.23.
"""

from __future__ import annotations

import math

from llmcli.checkpoint.config_keys import ConfigKeys
from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.model.config import LinearScaling, Llama3Scaling, RopeConfig, RopeScaling, YarnScaling

_LAYER_TYPES = ("full_attention", "sliding_attention")


def rope_config(keys: ConfigKeys, *, head_dim: int, context_length: int, layer_type: str) -> RopeConfig:
    """The rotation of layers of kind `layer_type` ("full_attention" or "sliding_attention")."""
    # A non-empty `rope_scaling` replaces `rope_parameters` whole.
    found = keys.section("rope_scaling") or keys.section("rope_parameters") or ConfigKeys({}, keys.path)
    nested = any(name in found.values for name in _LAYER_TYPES)
    own = (found.section(layer_type) or ConfigKeys({}, keys.path)) if nested else found
    theta = (own if own.get("rope_theta") is not None else keys).number("rope_theta")
    partial = own if own.get("partial_rotary_factor") is not None else keys
    share = 1.0 if partial.get("partial_rotary_factor") is None else partial.number("partial_rotary_factor")
    rotary_dim = int(head_dim * share)
    if theta <= 0 or not 0 < rotary_dim <= head_dim or rotary_dim % 2:
        raise CheckpointError(f"{keys.path} asks for a rotation of {rotary_dim} of {head_dim} values, theta {theta}.")
    return RopeConfig(theta, rotary_dim, _scaling(keys, own, context_length, nested=nested))


def _scaling(keys: ConfigKeys, own: ConfigKeys, context_length: int, *, nested: bool) -> RopeScaling | None:
    kind = own.text("rope_type") or own.text("type") or "default"
    if kind == "default":
        return None
    if kind == "linear":
        return LinearScaling(_positive(own, "factor"))
    # Written at top level by some families (Phi-3), where it overrides the one inside.
    outer = keys.optional_integer("original_max_position_embeddings")
    original = outer or own.optional_integer("original_max_position_embeddings") or context_length
    if kind == "llama3":
        low, high = _positive(own, "low_freq_factor"), _positive(own, "high_freq_factor")
        return Llama3Scaling(_positive(own, "factor"), low, high, original)
    if kind == "yarn":
        factor = _positive(own, "factor") if own.get("factor") is not None else context_length / original
        return YarnScaling(
            factor=factor,
            original_context=original,
            beta_fast=_positive(own, "beta_fast") if own.get("beta_fast") else 32.0,
            beta_slow=_positive(own, "beta_slow") if own.get("beta_slow") else 1.0,
            attention_factor=_yarn_attention_factor(own, factor),
            truncate=nested or own.get("truncate") is not False,
        )
    raise UnsupportedModelError(
        f"{keys.path} asks for {kind!r} rotary position scaling; supported are default, linear, llama3 and yarn."
    )


def _yarn_attention_factor(own: ConfigKeys, factor: float) -> float:
    if own.get("attention_factor") is not None:
        return _positive(own, "attention_factor")
    if own.get("mscale") and own.get("mscale_all_dim"):
        return yarn_mscale(factor, own.number("mscale")) / yarn_mscale(factor, own.number("mscale_all_dim"))
    return yarn_mscale(factor, 1.0)


def yarn_mscale(factor: float, scale: float) -> float:
    """The temperature YaRN gives attention: `0.1 scale ln(factor) + 1` (arXiv:2309.00071, eq. 22)."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _positive(keys: ConfigKeys, name: str) -> float:
    value = keys.number(name)
    if value <= 0:
        raise CheckpointError(f"{keys.path} has {name!r} = {value}; it must be positive.")
    return value
