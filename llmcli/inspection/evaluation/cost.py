"""The cost of running a model, computed from its sizes: parameters, FLOPs and KV cache memory.

Each weight takes 2 FLOPs per token (multiply and add). Attention takes 2 per value to compare a query head with a key
and 2 per value to mix: 4 H D S for H heads of size D and S keys (Kaplan et al. 2020, arXiv:2001.08361, section 2.1;
Hoffmann et al. 2022, arXiv:2203.15556, appendix F). A query sees its own key and the ones before it, up to its layer's
window. A layer with a state takes 6 FLOPs per value of its sum and token: to read it, to change it, and to read the
result. Norms, activations, rotations, softmax and biases are left out: they are well under one percent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from llmcli.errors import UsageError
from llmcli.inspection.evaluation.flops import box_of
from llmcli.model import LayerConfig, ModelConfig
from llmcli.model.parameter_info import ParameterInfo
from llmcli.model.parameters import parameters_of, used_by_a_token
from llmcli.model.shared_row_config import BlocksConfig

_KV_VALUE_BYTES = 2
# Multiplications with additions for each value of a state's sum: two reads and a change.
_WEIGHTS_PER_SUM_VALUE = 3
_LENGTHS = (1024, 8192, 32768)
_LONGEST = 1 << 31
_SHORTEST_POWER = 6
"""The curve begins at 2^6 = 64 tokens."""


@dataclass(frozen=True)
class BoxCost:
    """The cost of one kind of component, over the whole model."""

    box: str
    """embeddings, attention, recurrent, feed_forward, norms or output_head"""
    parameters: int
    """Tied parameters count once: a tied output head has 0."""
    active: int
    """Parameters used for a token: of the experts, only the chosen ones, and of a table of n-grams a few rows."""
    flops_per_token: int
    """FLOPs in its matrices, without attention scores, which depend on the length (`LengthCost`)."""


@dataclass(frozen=True)
class BlockCost:
    """Parameters of one block."""

    block: int
    """Counted from 0."""
    attention: int
    """Parameters."""
    recurrent: int
    """Parameters of what it has instead of attention, or beside it."""
    feed_forward: int
    """Parameters, all experts included."""
    feed_forward_active: int
    """Parameters used for a token."""
    window: int | None
    """Maximum number of keys a query sees; None is no limit."""


@dataclass(frozen=True)
class LengthCost:
    """The cost of a text of a given length."""

    tokens: int
    origin: str
    """Why this length: context, asked, text or example."""
    kv_bytes: int
    kv_bytes_ungrouped: int
    """If every query head had its own keys and values."""
    flops_to_read: int
    """Prefill of the whole text, with logits for its last token only."""
    flops_of_last: int
    """Its last token with the others cached: a decode step at this length."""
    attention_share: float
    """Share of `flops_of_last` spent on attention scores and mixing."""


@dataclass(frozen=True)
class ModelCost:
    """The costs of a model."""

    name: str
    context_length: int
    parameters: int
    active: int
    """Parameters used for a token."""
    flops_per_token: int
    """FLOPs in all matrices, without attention scores."""
    score_flops_per_key: int
    """FLOPs of attention scores and mixing per key, summed over all blocks."""
    boxes: tuple[BoxCost, ...]
    blocks: tuple[BlockCost, ...]
    query_heads: int
    kv_heads: int
    latent: bool
    """Whether keys and values of all heads are computed from one cached latent."""
    kv_value_bytes: int
    """Bytes of a cached value."""
    kv_bytes_per_token: int
    kv_bytes_per_token_ungrouped: int
    state_bytes: int
    """Of the layers that remember a text in a state, whatever its length."""
    lengths: tuple[LengthCost, ...]
    curve: tuple[LengthCost, ...]
    """The costs of powers of two up to the longest of `lengths`, to be drawn as curves."""


def model_cost(
    name: str, config: ModelConfig, *, context: int | None = None, text_tokens: int | None = None
) -> ModelCost:
    """Compute the costs for the full context, a few shorter lengths, `context` and `text_tokens`.

    Raises:
        UsageError: `context` is not a positive number of tokens.
    """
    if context is not None and not 0 < context < _LONGEST:
        raise UsageError(f"A context of {context} tokens is out of range; give a number from 1 on.")
    parameters = parameters_of(config)
    boxes = _boxes(config, parameters)
    flops = sum(box.flops_per_token for box in boxes)
    head = next(box.flops_per_token for box in boxes if box.box == "output_head")
    wanted: dict[int, str] = {length: "example" for length in _LENGTHS if length < config.context_length}
    wanted[config.context_length] = "context"
    wanted |= {text_tokens: "text"} if text_tokens else {}
    wanted |= {context: "asked"} if context is not None else {}
    return ModelCost(
        name=name,
        context_length=config.context_length,
        parameters=sum(box.parameters for box in boxes),
        active=sum(box.active for box in boxes),
        flops_per_token=flops,
        score_flops_per_key=sum(_score_flops(config, layer) for layer in config.layers),
        boxes=boxes,
        blocks=_blocks(config, parameters),
        query_heads=config.num_heads,
        kv_heads=1 if config.latent is not None else config.num_kv_heads,
        latent=config.latent is not None,
        kv_value_bytes=_KV_VALUE_BYTES,
        kv_bytes_per_token=config.kv_bytes_per_token(_KV_VALUE_BYTES),
        kv_bytes_per_token_ungrouped=sum(_ungrouped_width(config, layer) for layer in config.layers) * _KV_VALUE_BYTES,
        state_bytes=config.state_bytes(_KV_VALUE_BYTES),
        lengths=tuple(_length(config, tokens, wanted[tokens], flops, head) for tokens in sorted(wanted)),
        curve=tuple(
            _length(config, tokens, "example", flops, head)
            for power in range(_SHORTEST_POWER, max(wanted).bit_length())
            if (tokens := 1 << power) <= max(wanted)
        ),
    )


def keys_seen(layer: LayerConfig, tokens: int) -> int:
    """Number of keys that the last of `tokens` tokens sees in a layer, including its own, and compressed blocks."""
    return tokens - layer.first_visible(tokens - 1) + _blocks_seen(layer, tokens)


def keys_read(layer: LayerConfig, tokens: int) -> int:
    """Number of keys seen by all of `tokens` tokens in a layer: the sum of `keys_seen` over all lengths up to it."""
    if layer.blocks is not None:
        return keys_read(replace(layer, blocks=None), tokens) + _blocks_read(layer, layer.blocks, tokens)
    if layer.window is not None:
        growing = min(tokens, layer.window)
        return growing * (growing + 1) // 2 + (tokens - growing) * layer.window
    size = layer.chunk or tokens
    whole, rest = divmod(tokens, size)
    return whole * (size * (size + 1) // 2) + rest * (rest + 1) // 2


def _blocks_seen(layer: LayerConfig, tokens: int) -> int:
    """Number of compressed blocks that the last of `tokens` tokens sees in a layer."""
    if layer.blocks is None:
        return 0
    complete = layer.blocks.complete(tokens)
    return complete if layer.index is None else min(complete, layer.index.chosen)


def _blocks_read(layer: LayerConfig, blocks: BlocksConfig, tokens: int) -> int:
    """Number of compressed blocks seen by all of `tokens` tokens in a layer."""
    # From the first of these tokens on, the index chooses all that it can.
    most = tokens if layer.index is None else layer.index.chosen * blocks.rate
    growing = min(tokens, most)
    complete, rest = divmod(growing, blocks.rate)
    seen = blocks.rate * complete * (complete - 1) // 2 + complete * (rest + 1)
    return seen + (tokens - growing) * _blocks_seen(layer, growing)


def _boxes(config: ModelConfig, parameters: Mapping[str, ParameterInfo]) -> tuple[BoxCost, ...]:
    counts: Counter[str] = Counter()
    active: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    for name, parameter in parameters.items():
        box, used = box_of(name), used_by_a_token(config, name, parameter.values)
        counts[box] += parameter.values
        active[box] += used
        # Embeddings are looked up, not multiplied; biases are vectors (one per expert in a mixture).
        if box not in ("norms", "embeddings") and not name.endswith("bias"):
            weights[box] += used if len(parameter.shape) > 1 else 0
    sums = sum(mixer.sum_values for layer in config.layers for mixer in layer.mixers)
    weights["recurrent"] += _WEIGHTS_PER_SUM_VALUE * sums
    weights["output_head"] = config.vocab_size * config.hidden_size
    return tuple(
        BoxCost(box, counts[box], active[box], 2 * weights[box])
        for box in ("embeddings", "attention", "recurrent", "feed_forward", "norms", "output_head")
        if box != "recurrent" or counts[box]
    )


def _blocks(config: ModelConfig, parameters: Mapping[str, ParameterInfo]) -> tuple[BlockCost, ...]:
    counts: Counter[tuple[str, str]] = Counter()
    used: Counter[str] = Counter()
    for name, parameter in parameters.items():
        stack, _, rest = name.partition(".")
        if stack == "layers":
            block, box = rest.partition(".")[0], box_of(name)
            counts[block, box] += parameter.values
            if box == "feed_forward":
                used[block] += used_by_a_token(config, name, parameter.values)
    return tuple(
        BlockCost(
            block=index,
            attention=counts[str(index), "attention"],
            recurrent=counts[str(index), "recurrent"],
            feed_forward=counts[str(index), "feed_forward"],
            feed_forward_active=used[str(index)],
            window=layer.window or layer.chunk,
        )
        for index, layer in enumerate(config.layers)
    )


def _length(config: ModelConfig, tokens: int, origin: str, flops: int, head: int) -> LengthCost:
    last = sum(_score_flops(config, layer) * keys_seen(layer, tokens) for layer in config.layers)
    read = sum(_score_flops(config, layer) * keys_read(layer, tokens) for layer in config.layers)
    ungrouped = (_ungrouped_width(config, layer) * keys_seen(layer, tokens) for layer in config.layers)
    return LengthCost(
        tokens=tokens,
        origin=origin,
        kv_bytes=config.kv_bytes(tokens, _KV_VALUE_BYTES),
        kv_bytes_ungrouped=sum(ungrouped) * _KV_VALUE_BYTES,
        flops_to_read=tokens * (flops - head) + head + read,
        flops_of_last=flops + last,
        attention_share=last / (flops + last),
    )


def _score_flops(config: ModelConfig, layer: LayerConfig) -> int:
    """FLOPs of attention scores and mixing for one query token and one key in a block, over all heads.

    Latent attention compares and mixes the latents themselves: a query has the size of a cached row, a value that of
    the latent (DeepSeek-V2, arXiv:2405.04434, section 2.1.2).
    """
    if not layer.attends:
        return 0
    if config.latent is not None:
        return 2 * config.num_heads * (2 * config.latent.rank + config.latent.rope_dim)
    heads = config.heads_of(layer)
    return 2 * heads.count * (heads.key_dim + heads.value_dim)


def _ungrouped_width(config: ModelConfig, layer: LayerConfig) -> int:
    """Values that a block would cache per token if every query head had its own key and value."""
    if not layer.attends:
        return sum(config.cached_widths(layer)[1:])
    if config.latent is not None:
        return config.num_heads * (config.latent.query_dim + config.latent.value_dim)
    heads = config.heads_of(layer)
    return heads.count * (heads.key_dim + heads.value_dim)
