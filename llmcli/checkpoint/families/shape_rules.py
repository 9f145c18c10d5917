"""Rules of model families for what differs from layer to layer: heads, widths, shared keys and values."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

from llmcli.checkpoint.families.config_keys import ConfigKeys, in_short
from llmcli.checkpoint.families.layer_rules import FULL
from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.model import Heads, KeyIndexConfig

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


def listed_heads(keys: ConfigKeys, kinds: list[str]) -> list[Heads | None]:
    """Laguna: `num_attention_heads_per_layer` lists the number of query heads of each layer."""
    counts = keys.integers("num_attention_heads_per_layer")
    if counts is None:
        return [None] * len(kinds)
    kv_heads, size = keys.integer("num_key_value_heads"), keys.integer("head_dim")
    if len(counts) != len(kinds) or any(count <= 0 or count % kv_heads for count in counts):
        raise CheckpointError(
            f"{keys.path} has num_attention_heads_per_layer = {in_short(counts)}; a multiple of {kv_heads} for each of "
            f"{len(kinds)} layers is needed."
        )
    return [Heads(count, kv_heads, size, size) for count in counts]


def mimo_heads(keys: ConfigKeys, kinds: list[str]) -> list[Heads | None]:
    """MiMo-V2: values are smaller than keys, and windowed layers have twice the key-value heads unless stated."""
    count, kv_count = keys.integer("num_attention_heads"), keys.integer("num_key_value_heads")
    full = Heads(count, kv_count, keys.integer("head_dim"), keys.integer("v_head_dim"))
    windowed = Heads(
        keys.optional_integer("swa_num_attention_heads") or count,
        keys.optional_integer("swa_num_key_value_heads") or 2 * kv_count,
        keys.optional_integer("swa_head_dim") or full.key_dim,
        keys.optional_integer("swa_v_head_dim") or full.value_dim,
    )
    for heads in (full, windowed):
        if heads.count % heads.kv_count:
            raise CheckpointError(
                f"{keys.path}: {heads.count} attention heads cannot share {heads.kv_count} key-value heads evenly."
            )
    return [full if kind == FULL else windowed for kind in kinds]


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


def modernbert_layer_extras(keys: ConfigKeys, kinds: list[str]) -> list[dict[str, Any]]:
    """ModernBERT's decoders: the first attention reads the normalized embeddings; older files state two windows."""
    half = keys.integer("local_attention", minimum=2) // 2
    older = {} if "sliding_window" in keys.values else {"window": half}
    return [{"input_norm": index > 0, **({} if kind == FULL else older)} for index, kind in enumerate(kinds)]


def mimo_layer_extras(keys: ConfigKeys, kinds: list[str]) -> list[dict[str, Any]]:
    """MiMo-V2: sinks in windowed layers; published files state the window without the query itself."""
    before = keys.optional_integer("sliding_window_size")
    window = {} if before is None else {"window": before + 1}
    full, windowed = keys.flag("add_full_attention_sink_bias"), keys.flag("add_swa_attention_sink_bias")
    return [{"sinks": full} if kind == FULL else {"sinks": windowed, **window} for kind in kinds]


def index_layer_extras(keys: ConfigKeys, kinds: list[str]) -> list[dict[str, Any]]:
    """DeepSeek-V3.2 and GLM-5: an index of keys, which in GLM-5 some layers share with an earlier one."""
    index = KeyIndexConfig(keys.integer("index_n_heads"), keys.integer("index_head_dim"), keys.integer("index_topk"))
    if index.size < keys.integer("qk_rope_head_dim"):
        raise CheckpointError(f"{keys.path}: index_head_dim must be at least qk_rope_head_dim.")
    extras: list[dict[str, Any]] = []
    last: int | None = None
    for layer, shared in enumerate(_shared_indexes(keys, len(kinds))):
        if shared and last is None:
            raise CheckpointError(f"{keys.path}: the first layer cannot share an index of keys with an earlier one.")
        last = last if shared else layer
        extras.append({"index_from": last} if shared else {"index": index})
    return extras


def _shared_indexes(keys: ConfigKeys, layers: int) -> list[bool]:
    """Which layers use the choice of the last layer before them that has an index."""
    listed = keys.get("indexer_types") or keys.get("index_topk_pattern")
    if listed is None:
        period = max(1, keys.optional_integer("index_topk_freq", minimum=0) or 1)
        offset = keys.integer("index_skip_topk_offset", minimum=0)
        return [max(layer - offset + 1, 0) % period != 0 for layer in range(layers)]
    known = {"F": False, "full": False, "S": True, "shared": True}
    if not isinstance(listed, list | str) or len(listed) != layers or any(kind not in known for kind in listed):
        raise CheckpointError(f"{keys.path}: indexer_types must say full or shared for each of {layers} layers.")
    return [known[kind] for kind in listed]


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


def gemma3n_layer_extras(keys: ConfigKeys, kinds: list[str]) -> list[dict[str, Any]]:
    """Gemma 3n: shared keys and values, widths, and in the first layers sparse activations."""
    widths = keys.integers("intermediate_size") if isinstance(keys.get("intermediate_size"), list) else None
    widths = widths or [keys.integer("intermediate_size")] * len(kinds)
    sparse = 10 if len(kinds) > 10 else 0
    shares = keys.get("activation_sparsity_pattern")
    shares = [0.95] * sparse + [0.0] * (len(kinds) - sparse) if shares is None else shares
    if not isinstance(shares, list) or len(shares) != len(kinds) or len(widths) != len(kinds):
        raise CheckpointError(
            f"{keys.path}: activation_sparsity_pattern and intermediate_size must list {len(kinds)} layers."
        )
    return [
        {"kv_from": owner, "intermediate_size": width, "sparsity": _cutoff(keys, share)}
        for owner, width, share in zip(kv_owners(keys, kinds), widths, shares, strict=True)
    ]


def _cutoff(keys: ConfigKeys, share: object) -> float | None:
    """Standard deviations above the mean that a `share` of normally distributed values is below; None for 0."""
    if share == 0:
        return None
    if not isinstance(share, float) or not 0 < share < 1:
        raise CheckpointError(
            f"{keys.path}: activation_sparsity_pattern has {in_short(share)}, not a share from 0 to 1."
        )
    return NormalDist().inv_cdf(share)


def kv_owners(keys: ConfigKeys, kinds: list[str]) -> list[int | None]:
    """Gemma 3n and 4: the last `num_kv_shared_layers` layers read the keys and values of another layer of their type.

    That is the last one before them; None for a layer that computes them itself.
    """
    shared = keys.optional_integer("num_kv_shared_layers", minimum=0) or 0
    first = len(kinds) - shared
    if shared and (first < 1 or set(kinds[first:]) - set(kinds[:first])):
        raise CheckpointError(
            f"{keys.path}: num_kv_shared_layers is {shared}, but not every type of these layers has an earlier layer."
        )
    last = {kind: index for index, kind in enumerate(kinds[:first])}
    return [None if index < first else last[kind] for index, kind in enumerate(kinds)]
