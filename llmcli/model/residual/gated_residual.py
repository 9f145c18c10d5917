"""Gated residual streams (Qwen4-exp): attention and feed-forward read a mixture of several streams and write to each.

The mixture and what each stream gets depend on the token. Hyper-connections (Zhu et al. 2024, arXiv:2409.19606) are the
idea behind it; formulas: transformers 5.24, models/qwen4_exp.

Dimension letters: B batch, T new tokens, C hidden size, S streams. A token's streams are side by side, (B, T, S C), so
that they are one residual stream for everything outside this module.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.model.config import ModelConfig
from llmcli.model.norm import make_norm
from llmcli.model.residual_config import GatedResidualConfig


class GatedResidual(nn.Module):
    """How one part of a block, attention or feed-forward, reads the streams and writes to them.

    With n the streams, each normalized, it reads the mean over streams of `sigmoid(up(silu(down(n) / S))) * n`, and
    adds its output to each stream, times `2 sigmoid(inject(n) / S)`.
    """

    def __init__(self, config: ModelConfig, gated: GatedResidualConfig, *, writes: bool = True) -> None:
        super().__init__()
        self.streams, width = gated.streams, gated.streams * config.hidden_size
        self.norm = make_norm((gated.streams, config.hidden_size), config.norm_eps, config.norm)
        self.mix_down = nn.Linear(width, gated.rank, bias=False)
        self.mix_up = nn.Linear(gated.rank, width, bias=False)
        self.inject = nn.Linear(width, gated.streams, bias=False) if writes else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Streams (..., S C) -> what the part reads, (..., C), and what of its output each stream gets, (..., S, 1)."""
        streams: Tensor = self.norm(x.view(*x.shape[:-1], self.streams, -1))  # (..., S, C)
        normed = streams.flatten(-2)
        gates = torch.sigmoid(self.mix_up(F.silu(self.mix_down(normed) / self.streams))).view(streams.shape)
        read = (gates * streams).mean(-2)
        if self.inject is None:
            return read, streams[..., :0]
        return read, 2 * torch.sigmoid(self.inject(normed) / self.streams).unsqueeze(-1)


def to_streams(output: Tensor, shares: Tensor) -> Tensor:
    """What the streams get of a part's `output` (..., C), with the `shares` (..., S, 1) of each: (..., S C)."""
    return (shares * output.unsqueeze(-2)).flatten(-2)


class GatedStreams(nn.Module):
    """Makes the streams from the embedding, and what the output head reads from them after the last block."""

    def __init__(self, config: ModelConfig, gated: GatedResidualConfig) -> None:
        super().__init__()
        self.streams = gated.streams
        self.mixer = GatedResidual(config, gated, writes=False)

    def spread(self, x: Tensor) -> Tensor:
        """Embeddings (B, T, C) -> streams (B, T, S C): each is the embedding."""
        return x.repeat(1, 1, self.streams)

    def merge(self, x: Tensor) -> Tensor:
        """Streams (..., S C) -> (..., C), as a part of a block reads them."""
        read: Tensor = self.mixer(x)[0]
        return read
