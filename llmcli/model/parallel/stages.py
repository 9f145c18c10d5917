"""Pipeline parallelism: each rank has some consecutive layers, and passes the residual stream to the next rank.

The first rank also has the embedding, the last one the output head; it returns the logits to the first (Huang et al.
2019, arXiv:1811.06965, without micro-batches: a text's next token needs the one before).

Dimension letters: B batch, T new tokens, C hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from llmcli.errors import NotFiniteError, UnsupportedModelError
from llmcli.model.attention.attention import Positions
from llmcli.model.cache.kv_cache import KVCache, LayerCache
from llmcli.model.config import ModelConfig
from llmcli.model.parallel.split import Rank
from llmcli.model.parameters import parameters_of
from llmcli.model.transformer import Transformer


class Neighbors(Protocol):
    """How a stage sends tensors to other ranks. A rank that receives must know the shape."""

    def send_to(self, rank: int, x: Tensor) -> None:
        """Send `x` to a rank."""

    def receive_from(self, rank: int, like: Tensor) -> Tensor:
        """A tensor of the shape, type and device of `like` from a rank."""


def stage_layers(config: ModelConfig, count: int, shares: Sequence[float] | None = None) -> list[range]:
    """The layers of each of `count` stages, so that their weights are in proportion to `shares`; None: equal.

    Embedding and output head count for the first and the last stage.

    Raises:
        UnsupportedModelError: there are fewer layers than stages, or layers that read more than the residual stream.
    """
    if config.num_layers < count:
        raise UnsupportedModelError(
            f"The model has {config.num_layers} layers, which cannot be split into {count} stages; use fewer."
        )
    if reason := config.why_not_restartable:
        raise UnsupportedModelError(f"The model cannot be split into stages: {reason}.")
    wanted = [*(shares or [1.0] * count)]
    sizes = [0.0] * config.num_layers
    for name, parameter in parameters_of(config).items():
        at = int(name.split(".")[1]) if name.startswith("layers.") else 0 if name.startswith("embed") else -1
        sizes[at] += parameter.values
    if config.tie_embeddings:
        sizes[-1] += config.vocab_size * config.hidden_size
    total, reached = sum(sizes), 0.0
    ends: list[int] = []
    for layer, size in enumerate(sizes):
        reached += size
        # A stage ends where its share is reached, and early enough to leave a layer for each later one.
        left = config.num_layers - 1 - layer
        if len(ends) < count - 1 and (
            left == count - 1 - len(ends) or reached + size / 2 >= total * sum(wanted[: len(ends) + 1]) / sum(wanted)
        ):
            ends.append(layer + 1)
    starts = [0, *ends]
    return [range(start, stop) for start, stop in zip(starts, [*ends, config.num_layers], strict=True)]


def stage_config(config: ModelConfig, layers: range) -> ModelConfig:
    """The configuration of a stage: its layers only."""
    return replace(config, layers=config.layers[layers.start : layers.stop], tie_embeddings=False)


class PipelineStage(Transformer):
    """Some layers of a model, with its embedding if they are the first, and its head if they are the last."""

    neighbors: Neighbors

    def __init__(self, config: ModelConfig, rank: Rank) -> None:
        """`config` is that of the stage, see `stage_config`."""
        super().__init__(config)
        self.rank = rank
        if not self.is_first:
            self.add_module("embed_tokens", nn.Identity())
        if not self.is_last:
            self.add_module("lm_head", nn.Identity())

    @property
    def is_first(self) -> bool:
        """Whether this stage has the embedding."""
        return self.rank.index == 0

    @property
    def is_last(self) -> bool:
        """Whether this stage has the output head."""
        return self.rank.index == self.rank.count - 1

    @property
    def dtype(self) -> torch.dtype:
        """The data type of activations and of the KV cache."""
        return super().dtype if self.is_first else self._norm_weight.dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return super().device if self.is_first else self._norm_weight.device

    @property
    def _norm_weight(self) -> Tensor:
        return next(self.layers.parameters())

    def _embed(self, ids: Tensor, positions: slice | Tensor) -> tuple[Tensor, Tensor | None]:
        if self.is_first:
            return super()._embed(ids, positions)
        width = self.config.streams * self.config.hidden_size
        return torch.empty((*ids.shape, width), dtype=self.dtype, device=self.device), None

    def _run_blocks(
        self, x: Tensor, places: Sequence[Positions], cache: LayerCache | None, run: slice = slice(None)
    ) -> Tensor:
        if not self.is_first:
            x = self.neighbors.receive_from(self.rank.index - 1, x)
        x = super()._run_blocks(x, places, cache, run)
        if not self.is_last:
            self.neighbors.send_to(self.rank.index + 1, x)
        return x

    def _head(self, x: Tensor) -> Tensor:
        if self.is_last:
            logits = super()._head(x)
            self.neighbors.send_to(0, logits)
            return logits
        # The logits of the stages between are not used.
        like = torch.zeros((*x.shape[:2], self.config.vocab_size), dtype=self.dtype, device=self.device)
        return self.neighbors.receive_from(self.rank.count - 1, like) if self.is_first else like

    def _not_finite(self, embedded: Tensor, places: Sequence[Positions], cache: KVCache | None) -> NotFiniteError:
        return NotFiniteError("The model computed logits that are not numbers. Run it on one rank to find the layer.")
