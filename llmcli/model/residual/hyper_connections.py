"""Hyper-connections: several residual streams, which each part of a block reads, writes and mixes by learned weights.

Zhu et al. 2024, arXiv:2409.19606; with mixing matrices whose rows and columns sum to 1, so that no stream grows:
Xie et al. 2025, arXiv:2512.24880 (DeepSeek-V4). Formulas: transformers 5.24, models/deepseek_v4.

Dimension letters: B batch, T new tokens, C hidden size, S streams. Between blocks a token's streams are side by side,
(B, T, S C), so that they are one residual stream for everything outside this module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.model.config import ModelConfig
from llmcli.model.norm import root_mean_square
from llmcli.model.residual_config import HyperConfig


class StreamWeights(NamedTuple):
    """The weights with which the output of a part is added to the streams, and the streams to each other."""

    write: Tensor
    """(B, T, S): what each stream gets of the output."""
    mix: Tensor
    """(B, T, S, S): row i says how stream i is spread over the streams."""


class HyperConnection(nn.Module):
    """The connection of attention or feed-forward to the streams `X`, with `f = fn norm(X)` in float32.

    The part reads `sum_i (sigmoid(s0 f_i + b_i) + eps) X_i`; its output `y` becomes `X <- 2 sigmoid(s1 f + b) y + M' X`
    with the mixing matrix `M` from `softmax(s2 f + b)`.
    """

    def __init__(self, config: ModelConfig, hyper: HyperConfig) -> None:
        super().__init__()
        self.hyper, self.norm_eps = hyper, config.norm_eps
        count = hyper.streams
        outputs = (2 + count) * count
        self.fn = nn.Parameter(torch.empty(outputs, count * config.hidden_size))
        self.base = nn.Parameter(torch.empty(outputs))
        self.scale = nn.Parameter(torch.empty(3))

    def forward(self, x: Tensor, part: Callable[[Tensor], Tensor]) -> Tensor:
        """The streams (B, T, S C) after the `part` (B, T, C) -> (B, T, C) has read the streams `x` (B, T, S C)."""
        read, weights = self.read(x)
        return self.add(x, part(read), weights)

    def read(self, x: Tensor) -> tuple[Tensor, StreamWeights]:
        """What the part reads of the streams `x` (B, T, S C): (B, T, C); and the weights for `add`."""
        count, eps = self.hyper.streams, self.hyper.eps
        sizes = [count, count, count * count]
        found = F.linear(root_mean_square(x, self.norm_eps), self.fn.float())
        parts = zip(
            torch.split(found, sizes, -1), self.scale.float(), torch.split(self.base.float(), sizes), strict=True
        )
        reading, writing, mixing = (part * factor + bias for part, factor, bias in parts)
        streams = x.view(*x.shape[:2], count, -1)  # (B, T, S, C)
        read = ((torch.sigmoid(reading) + eps)[..., None] * streams).sum(2).to(x.dtype)
        matrix = mixing.view(*x.shape[:2], count, count).softmax(-1) + eps
        return read, StreamWeights(2 * torch.sigmoid(writing), self._balanced(matrix))

    def add(self, x: Tensor, output: Tensor, weights: StreamWeights) -> Tensor:
        """The streams (B, T, S C) after a part: `x` (B, T, S C) mixed, plus its `output` (B, T, C) to each."""
        streams = x.view(*x.shape[:2], self.hyper.streams, -1)  # (B, T, S, C)
        write, mix = weights.write.to(x.dtype), weights.mix.to(x.dtype)
        added: Tensor = write[..., None] * output[:, :, None] + mix.transpose(-1, -2) @ streams
        return added.flatten(2)

    def _balanced(self, matrix: Tensor) -> Tensor:
        """`matrix` (..., S, S) with rows and columns that sum to 1 (Sinkhorn & Knopp 1967); columns come last."""
        eps = self.hyper.eps
        matrix = matrix / (matrix.sum(-2, keepdim=True) + eps)
        for _ in range(self.hyper.iterations - 1):
            matrix = matrix / (matrix.sum(-1, keepdim=True) + eps)
            matrix = matrix / (matrix.sum(-2, keepdim=True) + eps)
        return matrix


class HyperStreams(nn.Module):
    """Makes the streams from the embedding, and one stream from them after the last block."""

    def __init__(self, config: ModelConfig, hyper: HyperConfig) -> None:
        super().__init__()
        self.hyper, self.norm_eps = hyper, config.norm_eps
        self.fn = nn.Parameter(torch.empty(hyper.streams, hyper.streams * config.hidden_size))
        self.base = nn.Parameter(torch.empty(hyper.streams))
        self.scale = nn.Parameter(torch.empty(1))

    def spread(self, x: Tensor) -> Tensor:
        """Embeddings (B, T, C) -> streams (B, T, S C), all alike."""
        return x.repeat(1, 1, self.hyper.streams)

    def merge(self, x: Tensor) -> Tensor:
        """Streams (..., S C) -> (..., C): their sum, weighted by a sigmoid of a projection of all."""
        weights = F.linear(root_mean_square(x, self.norm_eps), self.fn.float())  # (..., S)
        weights = torch.sigmoid(weights * self.scale.float() + self.base.float()) + self.hyper.eps
        streams = x.view(*x.shape[:-1], self.hyper.streams, -1)  # (..., S, C)
        return (weights[..., None] * streams).sum(-2).to(x.dtype)
