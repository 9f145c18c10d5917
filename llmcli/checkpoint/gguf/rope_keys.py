"""Read RoPE settings of GGUF files, and express them as `rope_parameters` of `config.json`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llmcli.checkpoint.families.rope_keys import yarn_mscale
from llmcli.checkpoint.gguf.header import GGUFHeader
from llmcli.checkpoint.gguf.keys import ArchitectureKeys
from llmcli.errors import CheckpointError, UnsupportedModelError

ReadValues = Callable[[str], tuple[float, ...]]
"""Returns the values of a tensor of the file, by its name."""

# One divisor per frequency: the rule of Llama 3.1, and the two sets of LongRoPE.
FREQUENCIES, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"


# Families whose sliding-window layers have another base.
# Families with latent attention, whose scores YaRN scales.
_LATENT = ("deepseek_v2", "deepseek_v3", "deepseek_v32", "glm_moe_dsa", "mistral4", "youtu")
_OWN_BASES = ("gemma3_text", "gemma3n_text", "gemma4_text", "laguna", "mellum", "mimo_v2_flash")


def rope_parameters(keys: ArchitectureKeys, family: str, read: ReadValues) -> dict[str, Any]:
    """The `rope_parameters` of the file: theta and the scaling, without the divisors in `FREQUENCIES`.

    Raises:
        UnsupportedModelError: an unknown kind of scaling.
        CheckpointError: invalid values.
    """
    theta = keys.number("rope.freq_base", 1e4)
    if family not in _OWN_BASES and keys.number("rope.freq_base_swa", theta) != theta:
        raise UnsupportedModelError(
            f"{keys.header.path} has a separate RoPE base for sliding-window layers, which is not supported for "
            f"{keys.architecture}."
        )
    found = {"rope_theta": theta, **_scaling(keys, family, read)}
    if family in ("ministral3", "mistral4") and keys.has("attention.temperature_scale"):
        found["llama_4_scaling_beta"] = keys.number("attention.temperature_scale")
        found["original_max_position_embeddings"] = _original_context(keys)
        length = keys.optional_integer("attention.temperature_length")
        if length not in (None, found["original_max_position_embeddings"]):
            raise UnsupportedModelError(
                f"{keys.header.path} has {keys.architecture}.attention.temperature_length = {length}, which is not the "
                "original context, and not supported."
            )
    return found


def frequency_divisors(header: GGUFHeader, read: ReadValues, pairs: int) -> tuple[float, ...] | None:
    """One divisor for each of the `pairs` rotated pairs, or None if the file has no such tensor."""
    if FREQUENCIES not in header.tensors:
        return None
    divisors = _values(header, FREQUENCIES, read)
    if len(divisors) != pairs:
        raise CheckpointError(f"{header.path}: {FREQUENCIES} has {len(divisors)} values, {pairs} are needed.")
    return divisors


def _scaling(keys: ArchitectureKeys, family: str, read: ReadValues) -> dict[str, Any]:
    tensors = keys.header.tensors
    if FREQUENCIES in tensors:
        return {"rope_type": "default"}
    if LONG in tensors and SHORT in tensors:
        return _longrope(keys, family, read)
    # A factor without a kind means linear scaling, the oldest kind.
    kind = keys.text("rope.scaling.type", "linear")
    factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 0.0))
    if kind == "none" or (kind == "linear" and factor in (0.0, 1.0)):
        return {"rope_type": "default"}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        return _yarn(keys, family, factor)
    if kind == "longrope":
        raise CheckpointError(f"{keys.header.path} lacks {LONG} or {SHORT}, which its RoPE scaling needs.")
    raise UnsupportedModelError(
        f"{keys.header.path} asks for {kind!r} rotary position scaling; supported are none, linear, yarn and longrope."
    )


def _longrope(keys: ArchitectureKeys, family: str, read: ReadValues) -> dict[str, Any]:
    found: dict[str, Any] = {
        "rope_type": "longrope",
        "long_factor": list(_values(keys.header, LONG, read)),
        "short_factor": list(_values(keys.header, SHORT, read)),
        "original_max_position_embeddings": _original_context(keys),
    }
    if keys.has("rope.scaling.attn_factor"):
        # Phi-3.5-MoE has one for each set of divisors.
        names = ("short_mscale", "long_mscale") if family == "phimoe" else ("attention_factor",)
        found |= dict.fromkeys(names, keys.number("rope.scaling.attn_factor"))
    return found


def _yarn(keys: ArchitectureKeys, family: str, factor: float) -> dict[str, Any]:
    for key in ("yarn_ext_factor", "yarn_attn_factor"):
        if keys.number(f"rope.scaling.{key}", 1.0) != 1:
            raise UnsupportedModelError(
                f"{keys.header.path} has {keys.architecture}.rope.scaling.{key}, which is not supported."
            )
    found: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": _original_context(keys),
        "beta_fast": keys.number("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": keys.number("rope.scaling.yarn_beta_slow", 1.0),
        # Only gpt-oss uses fractional bounds of the ramp.
        "truncate": family != "gpt_oss",
    }
    multiplier = keys.number("rope.scaling.yarn_log_multiplier", 0.0)
    given = keys.number("rope.scaling.attn_factor", 1.0)
    if not 0 <= multiplier < 1000:
        raise CheckpointError(
            f"{keys.header.path} has {keys.architecture}.rope.scaling.yarn_log_multiplier = {multiplier}, "
            "which no model has."
        )
    if family in _LATENT and multiplier:
        # The file stores a tenth of it. It scales the scores, so cos and sin are not scaled.
        found |= {"mscale_all_dim": 10 * multiplier, "attention_factor": given}
    elif family == "deepseek_v4":
        # It does not scale cosines and sines.
        found["attention_factor"] = given
    elif family == "olmo3" and keys.has("rope.scaling.attn_factor"):
        # This is the complete factor; in other families it multiplies YaRN's.
        found["attention_factor"] = given
    elif multiplier:
        found["attention_factor"] = given * yarn_mscale(factor, 1.0) / yarn_mscale(factor, multiplier)
    else:
        found["attention_factor"] = given * yarn_mscale(factor, 1.0)
    return found


def _original_context(keys: ArchitectureKeys) -> int | None:
    return keys.optional_integer("rope.scaling.original_context_length")


def _values(header: GGUFHeader, name: str, read: ReadValues) -> tuple[float, ...]:
    info = header.tensors[name]
    if info.values > 1 << 16:
        raise CheckpointError(f"{header.path}: {name} has {info.values} values, more than RoPE can have.")
    values = read(name)
    if not all(math.isfinite(value) and value > 0 for value in values):
        raise CheckpointError(f"{header.path}: {name} has values that are not positive numbers.")
    return values
