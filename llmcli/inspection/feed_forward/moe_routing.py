"""Mixture-of-experts routing: the experts chosen for each token of a text, and the load of each expert.

Dimension letters: E experts, k experts chosen for each token, N tokens of one pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcli.errors import UsageError
from llmcli.inspection.core.activations import passes
from llmcli.inspection.core.hooks import on_router
from llmcli.inspection.core.tokens import Token, tokens
from llmcli.loaded_model import LoadedModel
from llmcli.model import ModelConfig


@dataclass(frozen=True)
class ExpertWeight:
    """An expert chosen for a token, and its weight."""

    expert: int
    weight: float


@dataclass(frozen=True)
class LayerRouting:
    """The routing of a text in one block."""

    layer: int
    """The block, counted from 0."""
    experts: int
    """E"""
    chosen: int
    """k"""
    load: tuple[float, ...]
    """For each expert, its share of the k slots of all tokens; sums to 1."""
    entropy: float
    """Entropy of the load, in nats."""
    entropy_share: float
    """The entropy divided by its maximum, ln E: 1 if all experts have the same load."""
    routing: tuple[tuple[ExpertWeight, ...], ...]
    """For each token its experts, largest weight first; weights as the model uses them, so they need not sum to 1."""


@dataclass(frozen=True)
class ExpertRouting:
    """The routing of a text in every block that has experts."""

    tokens: tuple[Token, ...]
    layers: tuple[LayerRouting, ...]
    dense: tuple[int, ...]
    """Blocks with one feed-forward network for all tokens, counted from 0."""


def check_has_experts(name: str, config: ModelConfig) -> None:
    """Raise `UsageError` if no block of the model called `name` is a mixture of experts."""
    if all(layer.experts is None for layer in config.layers):
        raise UsageError(
            f"{name} is a dense model: every token goes through the whole of every block, so there is no routing to "
            "show. Choose a mixture-of-experts model."
        )


def expert_routing(
    loaded: LoadedModel,
    ids: Sequence[int],
    *,
    only: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ExpertRouting:
    """Read `ids` once and record the decisions of every router, or of the router in block `only`.

    Raises:
        UsageError: the model, or that block, has no experts; or there is no such block, or no text.
        PromptTooLongError: the text is longer than the model's context.
    """
    config = loaded.config
    mixtures = {index: layer.experts for index, layer in enumerate(config.layers) if layer.experts is not None}
    check_has_experts(loaded.name, config)
    if only is not None and only not in mixtures:
        raise UsageError(_no_router(only, config.num_layers, sorted(mixtures)))
    kept = mixtures if only is None else {only: mixtures[only]}
    seen: dict[int, list[tuple[Tensor, Tensor]]] = {block: [] for block in kept}

    def keep(block: int, _x: Tensor, chosen: Tensor, weights: Tensor) -> None:
        if block not in seen:
            return
        weights, order = weights.sort(dim=-1, descending=True, stable=True)
        seen[block].append((chosen.gather(-1, order).cpu(), weights.cpu()))

    with on_router(loaded.model, keep):
        for _ in passes(loaded.model, ids, progress):
            pass
    return ExpertRouting(
        tokens=tokens(loaded.tokenizer, ids),
        layers=tuple(
            _layer_routing(block, experts.count, *(torch.cat(parts) for parts in zip(*seen[block], strict=True)))
            for block, experts in kept.items()
        ),
        dense=tuple(block for block in range(config.num_layers) if block not in mixtures),
    )


def _no_router(block: int, blocks: int, mixtures: list[int]) -> str:
    if not 0 <= block < blocks:
        return f"There is no block {block}: the model has {blocks}, numbered from 0."
    return f"Block {block} is dense: it has no experts. The first block that has them is {mixtures[0]}."


def _layer_routing(block: int, count: int, chosen: Tensor, weights: Tensor) -> LayerRouting:
    """The routing of one block, from the experts `chosen` (N, k) for all tokens and their `weights` (N, k)."""
    load = torch.bincount(chosen.flatten(), minlength=count).double() / chosen.numel()
    # 0 ln 0 is 0; adding 0 makes the -0 of a single expert a 0.
    entropy = float(-torch.xlogy(load, load).sum()) + 0.0
    return LayerRouting(
        layer=block,
        experts=count,
        chosen=chosen.shape[1],
        load=tuple(load.tolist()),
        entropy=entropy,
        entropy_share=entropy / math.log(count) if count > 1 else 1.0,
        routing=tuple(
            tuple(map(ExpertWeight, row, row_weights))
            for row, row_weights in zip(chosen.tolist(), weights.tolist(), strict=True)
        ),
    )
