"""Read RoPE settings from `config.json`, in its three generations.

Up to transformers 4: `rope_theta` and `rope_scaling` at top level. From 5: one `rope_parameters` object, flat or nested
by layer type. Third, a few families use other names. Precedence is that of transformers 5.23.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.model import (
    DynamicScaling,
    FrequencyFactors,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RopeConfig,
    RopeScaling,
    YarnScaling,
)
from llmcli.model.rope_config import NOT_ROTATED

LAYER_TYPES = ("full_attention", "sliding_attention", "chunked_attention")


@dataclass(frozen=True)
class RopeRules:
    """RoPE facts of a family that its `config.json` does not state."""

    scaled_layers_only: str | None = None
    """The only layer type that top-level scaling applies to; None: all."""
    local_theta: str | float | None = None
    """Theta of the other layer types: a number, or the key that holds it."""
    by_layer_type: bool = False
    """Whether `rope_parameters` has one object for each layer type."""
    partial: bool = False
    """Whether a part of each head may be rotated; otherwise whole heads are."""
    restated: bool = False
    """Whether the stated share of a head is that of the rotated part of latent attention, whose size is known."""
    size_key: str | None = None
    """A key of the number of rotated values of each head, in files that state no share."""
    theta_of_layers: str | None = None
    """A key with one theta for each layer, or 0 for a layer without RoPE."""
    float32: bool = False
    fixed_alpha: bool = False
    """Whether "dynamic" scaling may state an `alpha`, a fixed factor on theta."""
    stated_scales: bool = False
    """Whether LongRoPE states the factors on cosines and sines, one for each set of divisors."""
    old_names: tuple[tuple[str, str], ...] = ()
    """Names of scalings in older files of the family, with today's names."""


def rope_config(
    keys: ConfigKeys, rules: RopeRules, *, head_dim: int, context_length: int, layer_type: str
) -> RopeConfig:
    """The RoPE settings of a layer type ("full_attention", "sliding_attention", "chunked_attention")."""
    own = rope_section(keys, layer_type)
    elsewhere = rules.scaled_layers_only not in (None, layer_type)
    unscaled = elsewhere and not _is_nested(keys)
    if not unscaled and own.get("rope_theta") is not None:
        theta = own.number("rope_theta")
    elif elsewhere and isinstance(rules.local_theta, float):
        theta = rules.local_theta
    else:
        theta = keys.number(rules.local_theta if elsewhere and isinstance(rules.local_theta, str) else "rope_theta")
    partial = own if own.get("partial_rotary_factor") is not None else keys
    share = None if rules.restated else partial.optional_positive("partial_rotary_factor")
    size = None if rules.size_key is None else keys.optional_integer(rules.size_key)
    proportional = own.text("rope_type") == "proportional"
    rotary_dim = int(head_dim * share) if share is not None and not proportional else size or head_dim
    if theta <= 1 or not 0 < rotary_dim <= head_dim or rotary_dim % 2:
        raise CheckpointError(f"{keys.path} asks for RoPE over {rotary_dim} of {head_dim} values with theta {theta}.")
    if proportional:
        return RopeConfig(theta, rotary_dim, _proportional(own, head_dim, share or 1.0), rules.float32)
    scaling = None if unscaled else _scaling(keys, own, rules, context_length, rotary_dim)
    alpha = own.optional_positive("alpha") if rules.fixed_alpha and isinstance(scaling, DynamicScaling) else None
    if alpha is not None:
        return RopeConfig(theta * alpha ** (rotary_dim / (rotary_dim - 2)), rotary_dim, None, rules.float32)
    return RopeConfig(theta, rotary_dim, scaling, rules.float32)


def _proportional(own: ConfigKeys, head_dim: int, share: float) -> FrequencyFactors:
    """The frequencies of the whole head, of which only the first `share` rotate (Gemma 4)."""
    rotating = min(int(share * head_dim // 2), head_dim // 2)
    factor = own.optional_positive("factor") or 1.0
    return FrequencyFactors((factor,) * rotating + (NOT_ROTATED,) * (head_dim // 2 - rotating))


def rope_section(keys: ConfigKeys, layer_type: str) -> ConfigKeys:
    """The nested RoPE keys of one layer type, without top-level keys."""
    found = _found(keys)
    return (found.section(layer_type) or ConfigKeys({}, keys.path)) if _is_nested(keys) else found


def stretched_context(keys: ConfigKeys, context_length: int) -> int:
    """The context after RoPE scaling, which may exceed `max_position_embeddings`; in tokens."""
    own = rope_section(keys, "full_attention")
    kind, factor = own.text("rope_type") or own.text("type"), own.optional_positive("factor")
    if factor is None or kind not in ("yarn", "dynamic"):
        return context_length
    original = _original_context(keys, own, context_length) if kind == "yarn" else context_length
    return max(context_length, int(min(original * factor, 1 << 30)))


def _found(keys: ConfigKeys) -> ConfigKeys:
    # A non-empty `rope_scaling` replaces `rope_parameters` as a whole. Null or absent means the family's default.
    found = keys.section("rope_scaling") or keys.section("rope_parameters")
    if found is None and keys.get("rope_parameters") is None:
        found = ConfigKeys(keys.defaults, keys.path).section("rope_parameters")
    return found or ConfigKeys({}, keys.path)


def _is_nested(keys: ConfigKeys) -> bool:
    return any(name in _found(keys).values for name in LAYER_TYPES)


def original_context(keys: ConfigKeys, layer_type: str, context_length: int) -> int:
    """The training context before RoPE scaling, in tokens."""
    return _original_context(keys, rope_section(keys, layer_type), context_length)


def _original_context(keys: ConfigKeys, own: ConfigKeys, context_length: int) -> int:
    # Some families (Phi-3) have it at top level, which overrides the nested one unless that is of a layer type.
    outer = None if _is_nested(keys) else keys.optional_integer("original_max_position_embeddings")
    return outer or own.optional_integer("original_max_position_embeddings") or context_length


def _scaling(
    keys: ConfigKeys, own: ConfigKeys, rules: RopeRules, context_length: int, rotary_dim: int
) -> RopeScaling | None:
    kind = own.text("rope_type") or own.text("type") or "default"
    kind = dict(rules.old_names).get(kind, kind)
    # Positions of images have three axes; of text, all three are the same.
    if kind in ("default", "mrope"):
        return None
    if kind == "linear":
        return LinearScaling(own.positive("factor"))
    if kind == "dynamic" and rotary_dim > 2:
        return DynamicScaling(own.positive("factor"), context_length)
    original = _original_context(keys, own, context_length)
    if kind == "llama3":
        low, high = own.positive("low_freq_factor"), own.positive("high_freq_factor")
        return Llama3Scaling(own.positive("factor"), low, high, original)
    if kind == "yarn":
        factor = own.optional_positive("factor") or context_length / original
        return YarnScaling(
            factor=factor,
            original_context=original,
            beta_fast=own.positive("beta_fast") if own.get("beta_fast") else 32.0,
            beta_slow=own.positive("beta_slow") if own.get("beta_slow") else 1.0,
            attention_factor=_yarn_attention_factor(own, factor),
            truncate=_is_nested(keys) or own.get("truncate") is not False,
        )
    if kind in ("longrope", "su"):
        scaling = _longrope(own, original, context_length, rotary_dim)
        if not rules.stated_scales:
            return scaling
        short, long = own.positive("short_mscale"), own.positive("long_mscale")
        return replace(scaling, attention_factor=short, long_attention_factor=long)
    raise UnsupportedModelError(
        f"{keys.path} asks for {kind!r} rotary position scaling; "
        "supported are default, linear, dynamic, llama3, yarn and longrope."
    )


def _longrope(own: ConfigKeys, original: int, context_length: int, rotary_dim: int) -> LongRopeScaling:
    short, long = own.numbers("short_factor"), own.numbers("long_factor")
    for name, divisors in (("short_factor", short), ("long_factor", long)):
        if len(divisors) != rotary_dim // 2:
            raise CheckpointError(
                f"{own.path}: {name} has {len(divisors)} values; RoPE over {rotary_dim} values needs {rotary_dim // 2}."
            )
    if original < 2:
        raise CheckpointError(f"{own.path}: RoPE cannot be scaled from an original context of {original} tokens.")
    factor = own.optional_positive("factor") or context_length / original
    attention_factor = own.optional_positive("attention_factor")
    if attention_factor is None:
        attention_factor = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return LongRopeScaling(short, long, original, attention_factor)


def _yarn_attention_factor(own: ConfigKeys, factor: float) -> float:
    given = own.optional_positive("attention_factor")
    if given is not None:
        return given
    if own.get("mscale") and own.get("mscale_all_dim"):
        return yarn_mscale(factor, own.positive("mscale")) / yarn_mscale(factor, own.positive("mscale_all_dim"))
    return yarn_mscale(factor, 1.0)


def yarn_mscale(factor: float, scale: float) -> float:
    """YaRN's attention temperature, `0.1 scale ln(factor) + 1` (arXiv:2309.00071, eq. 22)."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0
