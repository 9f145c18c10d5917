"""Rules of model families for single layers: their types, which have RoPE, and how queries grow with the position."""

from __future__ import annotations

from typing import Any

from llmcli.checkpoint.families.config_keys import ConfigKeys, in_short
from llmcli.checkpoint.families.rope_keys import original_context, rope_section
from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.model import QueryScaling

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
ATTENTION = FULL, SLIDING, CHUNKED
# Layers with a state instead of attention, or with a short convolution.
LINEAR, CONV = "linear_attention", "conv"
# Layers that are only a feed-forward network, dense or of experts.
DENSE, SPARSE = "mlp", "moe"


# Layer types if the file does not list them; one name for each of `layers` layers.


def all_full(keys: ConfigKeys, layers: int) -> list[str]:
    """Every layer has full attention."""
    return [FULL] * layers


def all_sliding(keys: ConfigKeys, layers: int) -> list[str]:
    """Mistral, Phi-3 and others: every layer has a sliding window, if the file states one."""
    return [FULL if keys.optional_integer("sliding_window") is None else SLIDING] * layers


def all_sliding_if_used(keys: ConfigKeys, layers: int) -> list[str]:
    """Qwen3-MoE: every layer has a sliding window if `use_sliding_window` is set."""
    return all_sliding(keys, layers) if keys.flag("use_sliding_window") else [FULL] * layers


def upper_sliding(keys: ConfigKeys, layers: int) -> list[str]:
    """Qwen 2 and 3: sliding window from layer `max_window_layers` on if `use_sliding_window` is set."""
    if not keys.flag("use_sliding_window") or keys.optional_integer("sliding_window") is None:
        return [FULL] * layers
    first = keys.integer("max_window_layers", minimum=0)
    return [SLIDING if index >= first else FULL for index in range(layers)]


def lower_even_sliding(keys: ConfigKeys, layers: int) -> list[str]:
    """Qwen2-MoE: sliding window in even layers below `max_window_layers` if `use_sliding_window` is set."""
    if not keys.flag("use_sliding_window"):
        return [FULL] * layers
    end = keys.integer("max_window_layers", minimum=0)
    return [SLIDING if index % 2 == 0 and index < end else FULL for index in range(layers)]


def even_sliding(keys: ConfigKeys, layers: int) -> list[str]:
    """Gemma 2 and gpt-oss: sliding window in every other layer, beginning with the first."""
    return [FULL if index % 2 else SLIDING for index in range(layers)]


def mostly_sliding(keys: ConfigKeys, layers: int) -> list[str]:
    """Gemma 3, Olmo 3, Cohere 2, Exaone 4: full attention in every n-th layer, a sliding window in the others."""
    pattern = keys.get("sliding_window_pattern")
    if keys.optional_integer("sliding_window") is None or not pattern:
        return [FULL] * layers
    if isinstance(pattern, str):
        # Exaone 4 writes one letter for each layer of the period: L local, G global.
        if set(pattern) - set("LG"):
            raise UnsupportedModelError(f"{keys.path} has sliding_window_pattern {pattern!r}; L and G are known.")
        return [SLIDING if pattern[index % len(pattern)] == "L" else FULL for index in range(layers)]
    period = keys.integer("sliding_window_pattern")
    return [FULL if (index + 1) % period == 0 else SLIDING for index in range(layers)]


def first_of_four_full(keys: ConfigKeys, layers: int) -> list[str]:
    """CWM and Granite with windows: full attention in every fourth layer, beginning with the first."""
    if keys.optional_integer("sliding_window") is None:
        return [FULL] * layers
    return [SLIDING if index % 4 else FULL for index in range(layers)]


def sliding_from_some_layer(keys: ConfigKeys, layers: int) -> list[str]:
    """dots.llm1: a sliding window from layer `max_window_layers` on, if the file states one."""
    if keys.optional_integer("sliding_window") is None:
        return [FULL] * layers
    first = keys.integer("max_window_layers", minimum=0)
    return [SLIDING if index >= first else FULL for index in range(layers)]


def every_fourth_from_the_end_full(keys: ConfigKeys, layers: int) -> list[str]:
    """Muse Glimmer: full attention in the last layer and every fourth before it."""
    return [SLIDING if (layers - 1 - index) % 4 else FULL for index in range(layers)]


def cohere_moe_types(keys: ConfigKeys, layers: int) -> list[str]:
    """Cohere with experts: the first, dense layers have a pattern of their own."""
    first = min(layers, keys.integer("first_k_dense_replace", minimum=0))
    dense, period = keys.integer("prefix_dense_sliding_window_pattern"), keys.integer("sliding_window_pattern")
    return [FULL if (index + 1) % dense == 0 else SLIDING for index in range(first)] + [
        FULL if (index + 1) % period == 0 else SLIDING for index in range(layers - first)
    ]


def ends_full(keys: ConfigKeys, layers: int) -> list[str]:
    """Flint: full attention in the first two layers, in every fourth, and in the last."""
    return [FULL if index < 2 or index % 4 == 1 or index == layers - 1 else SLIDING for index in range(layers)]


def gpt_neo_types(keys: ConfigKeys, layers: int) -> list[str]:
    """GPT-Neo: a list of "global" and "local", or lists of them with counts; by default they alternate."""
    listed, counted = keys.get("attention_layers"), keys.get("attention_types")
    if listed is None and counted is None:
        return [SLIDING if index % 2 else FULL for index in range(layers)]
    parts: Any = counted if listed is None else [(listed, 1)]
    try:
        kinds = [kind for part, count in parts for _ in range(min(count, layers)) for kind in part]
        return [{"global": FULL, "local": SLIDING}[kind] for kind in kinds]
    except (TypeError, ValueError, KeyError):
        raise CheckpointError(
            f"{keys.path} lists {in_short(parts)} as attention layers; global and local, with counts, are needed."
        ) from None


def mostly_sliding_then_full(keys: ConfigKeys, layers: int) -> list[str]:
    """Gemma 4: like `mostly_sliding`, and the last layer always has full attention."""
    return [*mostly_sliding(keys, layers)[:-1], FULL]


def chunked_where_rotated(keys: ConfigKeys, layers: int) -> list[str]:
    """Llama 4: chunked attention in layers with RoPE, full attention in the others."""
    return [CHUNKED if on else FULL for on in listed_rope(keys, [""] * layers)]


def sliding_where_not_rotated(keys: ConfigKeys, layers: int) -> list[str]:
    """SmolLM3: sliding window in layers without RoPE if `use_sliding_window` is set."""
    if not keys.flag("use_sliding_window") or keys.optional_integer("sliding_window") is None:
        return [FULL] * layers
    return [FULL if on else SLIDING for on in listed_rope(keys, [""] * layers)]


def modernbert_types(keys: ConfigKeys, layers: int) -> list[str]:
    """ModernBERT's decoders: full attention in every n-th layer, beginning with the first."""
    period = keys.integer("global_attn_every_n_layers")
    return [SLIDING if index % period else FULL for index in range(layers)]


def mimo_types(keys: ConfigKeys, layers: int) -> list[str]:
    """MiMo-V2: full attention in the first layer and every sixth, or where `hybrid_layer_pattern` is 0."""
    listed = keys.integers("hybrid_layer_pattern")
    if listed is None:
        return [SLIDING if index and (index + 1) % 6 else FULL for index in range(layers)]
    if set(listed) - {0, 1}:
        raise CheckpointError(f"{keys.path} has hybrid_layer_pattern = {in_short(listed)}; 0 and 1 are known.")
    return [SLIDING if kind else FULL for kind in listed]


# Layers of the files that are left out.


def none_left_out(keys: ConfigKeys) -> frozenset[int]:
    """The model has all layers."""
    return frozenset()


def image_layers(keys: ConfigKeys) -> frozenset[int]:
    """Llama 3.2 Vision: layers that only attend to images, which `transformers` skips without one."""
    listed = keys.integers("cross_attention_layers") or []
    count = keys.integer("num_hidden_layers")
    if any(not 0 <= index < count for index in listed) or len(set(listed)) >= count:
        raise CheckpointError(
            f"{keys.path} has cross_attention_layers = {in_short(listed)}; some of {count} layers, from 0 on, are "
            "needed."
        )
    return frozenset(listed)


# RoPE: for each layer, given the layer types, whether it has RoPE.


def always_rope(keys: ConfigKeys, kinds: list[str]) -> list[bool]:
    """Every layer has RoPE."""
    return [True] * len(kinds)


def never_rope(keys: ConfigKeys, kinds: list[str]) -> list[bool]:
    """No layer has RoPE: positions are learned vectors, added to the embeddings."""
    return [False] * len(kinds)


def listed_rope(keys: ConfigKeys, kinds: list[str]) -> list[bool]:
    """SmolLM3 and Llama 4: `no_rope_layers` is 1 for layers with RoPE; by default every n-th layer has none."""
    listed = keys.integers("no_rope_layers")
    if listed is None:
        interval = keys.integer("no_rope_layer_interval")
        return [(index + 1) % interval != 0 for index in range(len(kinds))]
    if len(listed) != len(kinds):
        raise CheckpointError(f"{keys.path}: no_rope_layers has {len(listed)} values for {len(kinds)} layers.")
    return [bool(value) for value in listed]


def sliding_rope(keys: ConfigKeys, kinds: list[str]) -> list[bool]:
    """Cohere 2: only sliding-window layers have RoPE."""
    return [kind == SLIDING for kind in kinds]


def sliding_or_dense_rope(keys: ConfigKeys, kinds: list[str]) -> list[bool]:
    """Cohere with experts: layers with a window, and dense ones if all of them have full attention."""
    dense = [index < keys.integer("first_k_dense_replace", minimum=0) for index in range(len(kinds))]
    listed = keys.get("mlp_layer_types")
    if isinstance(listed, list) and len(listed) == len(kinds):
        dense = [kind == "dense" for kind in listed]
    forced = keys.integer("prefix_dense_sliding_window_pattern") == 1
    return [kind == SLIDING or (forced and first) for kind, first in zip(kinds, dense, strict=True)]


def rope_but_in_every_fourth_from_the_end(keys: ConfigKeys, kinds: list[str]) -> list[bool]:
    """Muse Glimmer: `layer_rope_theta` is 0 for layers without RoPE; its other values are not used."""
    listed = keys.get("layer_rope_theta")
    if listed is None:
        return [(len(kinds) - 1 - index) % 4 != 0 for index in range(len(kinds))]
    if not isinstance(listed, list) or len(listed) != len(kinds):
        raise CheckpointError(
            f"{keys.path}: layer_rope_theta must list {len(kinds)} layers, as num_hidden_layers says."
        )
    return [bool(theta) for theta in listed]


def rope_without_alibi(keys: ConfigKeys, kinds: list[str]) -> list[bool]:
    """Falcon: every layer, unless scores are biased by distance."""
    return [not keys.flag("alibi")] * len(kinds)


def rope_where_stated(keys: ConfigKeys, kinds: list[str]) -> list[bool]:
    """Cohere's Compass: no RoPE in layers of a type for which `rope_parameters` has null."""
    rope = keys.section("rope_parameters")
    return [rope is None or kind not in rope.values or rope.get(kind) is not None for kind in kinds]


def sliding_rope_if_any(keys: ConfigKeys, kinds: list[str]) -> list[bool]:
    """Exaone 4: only sliding-window layers have RoPE, or all if the model has no window."""
    return [kind == SLIDING or keys.optional_integer("sliding_window") is None for kind in kinds]


def rope_if_named(keys: ConfigKeys, kinds: list[str]) -> list[bool]:
    """Granite hybrids: RoPE only if `position_embedding_type` is "rope"."""
    return [keys.text("position_embedding_type") == "rope"] * len(kinds)


# Query scaling by position: for each layer, given which layers have RoPE.


def no_query_scaling(keys: ConfigKeys, rope_on: list[bool]) -> list[QueryScaling | None]:
    """No query scaling."""
    return [None] * len(rope_on)


def ministral_query_scaling(keys: ConfigKeys, rope_on: list[bool]) -> list[QueryScaling | None]:
    """Ministral 3 and Mistral 4: every layer, from the original context length on."""
    rope = rope_section(keys, FULL)
    if rope.get("llama_4_scaling_beta") is None:
        return [None] * len(rope_on)
    interval = original_context(keys, FULL, keys.integer("max_position_embeddings"))
    return [QueryScaling(rope.number("llama_4_scaling_beta"), interval)] * len(rope_on)


def llama4_query_scaling(keys: ConfigKeys, rope_on: list[bool]) -> list[QueryScaling | None]:
    """Llama 4: layers without RoPE."""
    if not keys.get("attn_temperature_tuning"):
        return [None] * len(rope_on)
    scaling = QueryScaling(keys.number("attn_scale"), keys.integer("floor_scale"), offset=1)
    return [None if on else scaling for on in rope_on]
