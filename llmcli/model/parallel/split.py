"""Which part of a model each rank has: heads, neurons, experts and rows of the vocabulary.

The part is described as a configuration with smaller sizes, so a rank's model, its parameters and its KV cache are made
like those of any model. Comparing the two lists of parameters says which dimension of each is split.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from llmcli.errors import UnsupportedModelError
from llmcli.model.config import ExpertsConfig, Heads, LayerConfig, ModelConfig
from llmcli.model.parameters import parameters_of

# Columns of a matrix that share a scale in the common quantized formats: cuts between them keep every code.
_UNITS = (256, 128, 64, 32, 16, 8, 4, 2, 1)


@dataclass(frozen=True)
class Rank:
    """One of several processes that each hold a part of the model."""

    index: int
    """From 0 on; rank 0 chooses the tokens."""
    count: int


@dataclass(frozen=True)
class Part:
    """The part of a parameter that a rank has."""

    dimension: int
    start: int
    stop: int
    whole: tuple[int, ...]
    """The shape of the parameter in the whole model."""


def rank_config(config: ModelConfig, rank: Rank) -> ModelConfig:
    """The sizes of the part that a rank has.

    Query heads are split with the key-value head they share; if there are fewer key-value heads than ranks, each is on
    several ranks. Neurons are split at multiples of 256 where possible, whole experts go to ranks. Layers without
    attention, and parts that need all neurons or all heads at once for a norm or a threshold, are whole on each rank.

    Raises:
        UnsupportedModelError: some layer has fewer heads or experts than there are ranks.
    """
    layers = tuple(_layer(config, layer, rank) for layer in config.layers)
    _check(config.vocab_size, "tokens in its vocabulary", rank)
    heads = config.num_heads
    if config.latent is not None:
        _check(heads, "attention heads", rank)
        first_head, last_head = even_range(heads, rank)
        heads = last_head - first_head
    return replace(config, held_tokens=even_range(config.vocab_size, rank), num_heads=heads, layers=layers)


def parts_of(config: ModelConfig, rank: Rank) -> dict[str, Part]:
    """The parameters of a model that are split, by name, each with the part that `rank` has."""
    return parts_by_rank(config, rank.count)[rank.index]


def parts_by_rank(config: ModelConfig, count: int) -> list[dict[str, Part]]:
    """`parts_of` for each of `count` ranks."""
    by_rank = [parameters_of(rank_config(config, Rank(index, count))) for index in range(count)]
    found: list[dict[str, Part]] = [{} for _ in by_rank]
    for name, parameter in parameters_of(config).items():
        shape, shapes = parameter.shape, [parameters[name].shape for parameters in by_rank]
        dimension = next((at for at, size in enumerate(shape) if any(own[at] != size for own in shapes)), None)
        if dimension is None:
            continue
        sizes = [own[dimension] for own in shapes]
        if sum(sizes) == shape[dimension]:
            starts = [sum(sizes[:index]) for index in range(count)]
        else:
            # One key-value head for each rank, and several ranks for each head.
            heads = shape[dimension] // sizes[0]
            starts = [index * heads // count * sizes[0] for index in range(count)]
        for parts, start, size in zip(found, starts, sizes, strict=True):
            parts[name] = Part(dimension, start, start + size, shape)
    return found


def even_range(count: int, rank: Rank) -> tuple[int, int]:
    """The range of `count` things that a rank has: sizes differ by one at most, and the first ranks have more."""
    each, more = divmod(count, rank.count)
    start = rank.index * each + min(rank.index, more)
    return start, start + each + (rank.index < more)


def query_heads(heads: Heads, rank: Rank) -> tuple[int, int]:
    """The query heads that a rank has: those of its key-value heads, or some of those that share one."""
    each = heads.count // heads.kv_count
    if heads.kv_count >= rank.count:
        first, stop = even_range(heads.kv_count, rank)
        return first * each, stop * each
    head = rank.index * heads.kv_count // rank.count
    sharing = [index for index in range(rank.count) if index * heads.kv_count // rank.count == head]
    first, stop = even_range(each, Rank(sharing.index(rank.index), len(sharing)))
    return head * each + first, head * each + stop


def rank_counts(config: ModelConfig, most: int = 64) -> list[int]:
    """The numbers of ranks, up to `most`, that the model can be split over."""
    found = []
    for count in range(2, most + 1):
        try:
            for index in range(count):
                rank_config(config, Rank(index, count))
        except UnsupportedModelError:
            continue
        found.append(count)
    return found


def _layer(config: ModelConfig, layer: LayerConfig, rank: Rank) -> LayerConfig:
    if layer.attends and config.latent is None and not _needs_all_heads(config, layer):
        layer = replace(layer, heads=_heads(config.heads_of(layer), rank))
    if layer.parts == "mixer":
        return layer
    if layer.experts is not None:
        return replace(layer, experts=_experts(layer.experts, rank))
    if config.sub_norms or layer.sparsity is not None or layer.channel_mixing:
        return layer
    return replace(layer, intermediate_size=_neurons(config.width_of(layer), rank))


def _needs_all_heads(config: ModelConfig, layer: LayerConfig) -> bool:
    """Whether heads are normalized together, or share keys that no rank could make from some of them."""
    together = config.qk_norm == "whole" or config.sub_norms
    return together or layer.blocks is not None or layer.block_index is not None


def _heads(heads: Heads, rank: Rank) -> Heads:
    first, stop = query_heads(heads, rank)
    if heads.kv_count >= rank.count:
        kv_first, kv_stop = even_range(heads.kv_count, rank)
    else:
        kv_first, kv_stop = 0, 1
    fewest = rank.count // heads.kv_count + (rank.count % heads.kv_count > 0)
    if heads.kv_count < rank.count and heads.count // heads.kv_count < fewest:
        raise UnsupportedModelError(_too_few(heads.count, "attention heads", rank))
    return replace(heads, count=stop - first, kv_count=kv_stop - kv_first)


def _experts(experts: ExpertsConfig, rank: Rank) -> ExpertsConfig:
    _check(experts.count, "experts", rank)
    shared = _neurons(experts.shared_size, rank) if experts.shared_size else 0
    return replace(experts, held=even_range(experts.count, rank), shared_size=shared)


def _neurons(size: int, rank: Rank) -> int:
    """How many neurons of a feed-forward network a rank has."""
    _check(size, "neurons", rank)
    unit = next(unit for unit in _UNITS if size % unit == 0 and size // unit >= rank.count)
    first, stop = even_range(size // unit, rank)
    return (stop - first) * unit


def _check(count: int, what: str, rank: Rank) -> None:
    if count < rank.count:
        raise UnsupportedModelError(_too_few(count, what, rank))


def _too_few(count: int, what: str, rank: Rank) -> str:
    return f"The model has {count} {what}, which cannot be split over {rank.count} ranks; use fewer."
