"""Rules of model families for what differs from layer to layer: heads, widths, shared keys and values."""

from __future__ import annotations

from typing import Any

from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.checkpoint.families.layer_rules import FULL
from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.model import Heads

# Heads: for each layer, given the layer types, its heads, or None for those of `ModelConfig`.


def same_heads(keys: ConfigKeys, kinds: list[str]) -> list[Heads | None]:
    """All layers have the same heads."""
    return [None] * len(kinds)


def gemma4_heads(keys: ConfigKeys, kinds: list[str]) -> list[Heads | None]:
    """Gemma 4: layers with full attention have larger heads, and perhaps another number of key-value heads.

    Files of transformers 5.24 and later list such sizes layer by layer.
    """
    if kinds[-1] != FULL:
        raise UnsupportedModelError(f"{keys.path}: the last of layer_types must be {FULL} in a Gemma 4 model.")
    listed = keys.section("per_layer_config")
    if listed is None:
        found = {"head_dim": keys.get("global_head_dim")}
        if keys.flag("attention_k_eq_v") and keys.optional_integer("num_global_key_value_heads") is not None:
            found["num_key_value_heads"] = keys.get("num_global_key_value_heads")
        return [_heads(keys, ConfigKeys(found, keys.path)) if kind == FULL else None for kind in kinds]
    return [None if (own := listed.section(str(index))) is None else _heads(keys, own) for index in range(len(kinds))]


def _heads(keys: ConfigKeys, own: ConfigKeys) -> Heads:
    """The heads of a layer for which `own` keys replace those of all layers."""
    unknown = sorted(set(own.values) - {"head_dim", "num_key_value_heads"})
    if unknown:
        raise UnsupportedModelError(f"{keys.path} has per_layer_config.{unknown[0]}, which is not supported.")
    count = keys.integer("num_attention_heads")
    kv_count = own.optional_integer("num_key_value_heads") or keys.integer("num_key_value_heads")
    size = own.optional_integer("head_dim") or keys.integer("head_dim")
    if count % kv_count:
        raise CheckpointError(f"{keys.path}: {count} attention heads cannot share {kv_count} key-value heads evenly.")
    return Heads(count, kv_count, size, size)


# Further fields of `LayerConfig`: for each layer, given the layer types.


def no_layer_extras(keys: ConfigKeys, kinds: list[str]) -> list[dict[str, Any]]:
    """No further fields."""
    return [{} for _ in kinds]


def gemma4_layer_extras(keys: ConfigKeys, kinds: list[str]) -> list[dict[str, Any]]:
    """Gemma 4: shared keys and values, values that are keys, and wider feed-forward networks in layers that share."""
    owners = kv_owners(keys, kinds)
    double = keys.flag("use_double_wide_mlp")
    return [
        {
            "kv_from": owner,
            "key_is_value": keys.flag("attention_k_eq_v") and kind == FULL and owner is None,
            "intermediate_size": keys.integer("intermediate_size") * (2 if double and owner is not None else 1),
        }
        for kind, owner in zip(kinds, owners, strict=True)
    ]


def kv_owners(keys: ConfigKeys, kinds: list[str]) -> list[int | None]:
    """Gemma 3n and 4: the last `num_kv_shared_layers` layers read the keys and values of another layer of their type.

    That is the last one before them; None for a layer that has keys and values of its own.
    """
    shared = keys.optional_integer("num_kv_shared_layers", minimum=0) or 0
    first = len(kinds) - shared
    if shared and (first < 1 or set(kinds[first:]) - set(kinds[:first])):
        raise CheckpointError(
            f"{keys.path}: num_kv_shared_layers is {shared}, but not every type of these layers has an earlier layer."
        )
    last = {kind: index for index, kind in enumerate(kinds[:first])}
    return [None if index < first else last[kind] for index, kind in enumerate(kinds)]
