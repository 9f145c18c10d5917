"""Describe the parts of a model in the words of a model card."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmcli.model.rope_config import NOT_ROTATED, FrequencyFactors

if TYPE_CHECKING:
    from llmcli.model import ExpertsConfig, LayerConfig, ModelConfig, RopeConfig

_PLACEMENTS = {
    "pre": "before each part",
    "post": "after each part",
    "sandwich": "before and after each part",
    "sum": "of the residual stream after each part",
    "parallel": "before each part, both parts in parallel",
    "parallel_shared": "one before both parts, which run in parallel",
}
_QK_NORMS = {
    "head": "each head of queries and keys normalized",
    "whole": "queries and keys normalized over all heads",
    "each_head": "each head of queries and keys normalized with separate weights",
    "weightless": "each head of queries and keys normalized without weights",
    "rotated": "queries and keys normalized after the rotation, without weights",
    "rotated_head": "each head of queries and keys normalized after the rotation",
}
_SCALINGS = {
    "LinearScaling": "linear",
    "DynamicScaling": "dynamic",
    "Llama3Scaling": "Llama 3",
    "YarnScaling": "YaRN",
    "LongRopeScaling": "LongRoPE",
    "FrequencyFactors": "stored",
}
_SCORES = {
    "softmax": "softmax over all",
    "sigmoid": "sigmoid",
    "sqrt_softplus": "square roots of softplus",
    "softmax_of_chosen": "softmax over the chosen",
    "sigmoid_of_chosen": "sigmoid",
    "sigmoid_of_biased": "sigmoid",
    "sparse_mixing": "sparse mixing",
}


def norm_words(config: ModelConfig, layer: LayerConfig) -> str:
    """Kind and placement of the norms, and scaling of the residual stream."""
    kind = "RMSNorm" if config.norm.kind == "rms" else "LayerNorm"
    if not config.norm.weight:
        kind += " without weights"
    elif config.norm.plus_one:
        kind += " (1 + weight)"
    placed = _PLACEMENTS[config.placement_of(layer)] if config.gated_residual is None else "of each residual stream"
    words = [f"{kind} {placed}, eps {config.norm_eps:g}"]
    if config.residual_scale != 1:
        words.append(f"each part times {config.residual_scale:g}")
    if config.per_layer is not None:
        words.append(f"a token's vector of {config.per_layer.size} for the block added through a gate")
    if config.altup is not None:
        words.append(f"on the first of {config.altup.streams} residual streams, which correct each other")
    if config.hyper is not None:
        words.append(f"on {config.hyper.streams} residual streams, mixed by hyper-connections")
    if config.gated_residual is not None:
        words.append(f"{config.gated_residual.streams} streams, which each part reads and writes through gates")
    if layer.ngram is not None:
        words.append(f"embeddings of the last {layer.ngram.longest} tokens together added")
    if config.layer_scale:
        words.append("the output times a learned number")
    return ", ".join(words)


def attention_words(config: ModelConfig, layer: LayerConfig) -> str:
    """Heads, their sizes and their attention mask."""
    words = [_heads(config, layer)]
    if config.qk_norm is not None and (config.qk_norm != "rotated" or layer.rope is not None):
        words.append(_QK_NORMS[config.qk_norm])
    if not layer.input_norm:
        words.append("on the residual stream as it is")
    if config.value_norm:
        words.append("values normalized")
    if config.value_scale != 1:
        words.append(f"values times {config.value_scale:g}")
    if layer.key_is_value:
        words.append("values are the keys before norm and rotation")
    if config.caches_int8(layer):
        words.append("keys and values kept in 8 bits")
    if layer.kv_from is not None:
        words.append(f"keys and values of block {layer.kv_from}")
    if config.qkv_clip is not None:
        words.append(f"queries, keys and values clamped to {config.qkv_clip:g}")
    if config.qkv_bias or config.o_bias:
        words.append("with biases on " + " and ".join(["q, k, v"] * config.qkv_bias + ["output"] * config.o_bias))
    if config.attention_softcap is not None:
        words.append(f"scores capped at {config.attention_softcap:g}")
    if config.alibi is not None:
        words.append("scores fall with the distance (ALiBi)")
    if config.attention_gate is not None:
        each = "head" if config.attention_gate.per_head else "value"
        words.append(f"a {config.attention_gate.activation} gate for each {each}")
    if config.sub_norms:
        words.append("normalized before the output projection")
    if layer.sinks:
        words.append("a sink in each head")
    if layer.query_scaling is not None:
        words.append(f"queries grow from position {layer.query_scaling.interval} on")
    if layer.blocks is not None:
        which = f"blocks of {layer.blocks.rate} compressed tokens"
        if layer.index is None:
            which = f"all {which}"
        else:
            which = f"{layer.index.chosen} {which} that an index of {layer.index.heads} heads chooses"
        words.append(f"sees the last {layer.window} tokens and {which}")
    elif layer.index is not None:
        words.append(f"sees the {layer.index.chosen} keys that an index of {layer.index.heads} heads chooses")
    elif layer.block_index is not None:
        index = layer.block_index
        words.append(
            f"sees the {index.chosen} blocks of {index.block} keys that an index of {index.heads} heads chooses"
        )
    elif layer.index_from is not None:
        words.append(f"sees the keys that block {layer.index_from} chose")
    elif layer.window is not None:
        words.append(f"sees the last {layer.window} tokens")
    elif layer.chunk is not None:
        words.append(f"sees its own chunk of {layer.chunk} tokens")
    else:
        words.append("sees everything before it")
    return ", ".join(words)


def rope_words(rope: RopeConfig | None) -> str:
    """Parameters of the rotary position embedding."""
    if rope is None:
        return "none"
    scaling = "" if rope.scaling is None else f", {_SCALINGS[type(rope.scaling).__name__]} scaling"
    rotated = str(rope.rotary_dim)
    if isinstance(rope.scaling, FrequencyFactors) and rope.scaling.unrotated:
        rotated = f"{rope.rotary_dim - rope.scaling.unrotated} of {rotated}"
        # A table that only says which values do not rotate scales nothing.
        scaling = "" if set(rope.scaling.divisors) == {1.0, NOT_ROTATED} else scaling
    return f"theta {rope.theta:g}, {rotated} values of each head{scaling}"


def feed_forward_words(config: ModelConfig, layer: LayerConfig) -> str:
    """The feed-forward network, or its mixture of experts."""
    if layer.experts is not None:
        return _experts(config, layer.experts)
    if layer.channel_mixing:
        return f"channel mixing {config.activation}, {config.hidden_size} -> {config.width_of(layer)}, gated behind"
    kind = "gated" if config.gated else "plain"
    bias = ", with biases" if config.mlp_bias else ""
    if layer.sparsity is not None:
        bias += f", gates cut off at {layer.sparsity:.3g} standard deviations above their mean"
    return f"{kind} {config.activation}, {config.hidden_size} -> {config.width_of(layer)}{bias}"


def logit_words(config: ModelConfig) -> str:
    """Bias, scale and cap of the logits, each after a comma; empty if there are none."""
    words = ""
    if config.head_layer is not None:
        words += f", behind a {config.head_layer.activation} layer with a norm"
    if config.head_bias:
        words += ", with biases"
    if config.logit_scale != 1:
        words += f", logits times {config.logit_scale:.3g}"
    if config.logit_softcap is not None:
        words += f", logits capped at {config.logit_softcap:g}"
    return words


def _heads(config: ModelConfig, layer: LayerConfig) -> str:
    if config.latent is not None:
        sizes = config.latent
        return (
            f"latent, {config.num_heads} heads of {sizes.nope_dim} + {sizes.rope_dim} rotated, values of "
            f"{sizes.value_dim}, made from {sizes.rank} + {sizes.rope_dim} cached values"
        )
    if config.shared_row is not None:
        shared = config.shared_row
        return (
            f"{config.num_heads} heads on one row of {config.head_dim} values, key and value in one, queries made from "
            f"{shared.query_rank} values, output in {shared.groups} groups of {shared.group_rank}"
        )
    shape = config.heads_of(layer)
    heads, kv = shape.count, shape.kv_count
    kind = "multi-head" if heads == kv else "multi-query" if kv == 1 else "grouped-query"
    values = "" if shape.value_dim == shape.key_dim else f", values of {shape.value_dim}"
    return f"{kind}, {heads} query heads on {kv} key-value heads of {shape.key_dim}{values}"


def _experts(config: ModelConfig, experts: ExpertsConfig) -> str:
    clamped = experts.glu is not None or experts.limit is not None
    glu = "clamped" if clamped else config.activation
    kind = f"gated {glu}" if experts.gated else f"plain {glu}"
    read = experts.latent_size or config.hidden_size
    words = [f"{experts.chosen} of {experts.count}, each {kind}, {read} -> {experts.intermediate_size}"]
    if experts.latent_size is not None:
        words.append(f"on inputs projected to {read} values")
    if experts.groups_chosen < experts.groups:
        words.append(f"from the best {experts.groups_chosen} of {experts.groups} groups")
    if experts.by_token:
        words.append("chosen by a table of tokens")
    words.append(f"weights by {_SCORES[experts.score]}")
    if experts.own_norms:
        words.append(f"beside a dense network of {experts.shared_size}, each with norms before and after")
    elif experts.shared_size:
        gate = "gated " if experts.shared_gate else ""
        words.append(f"and a {gate}shared one of {experts.shared_size}")
    return ", ".join(words)
