"""Alternating updates (AltUp, Baykal et al. 2023, arXiv:2301.13310; Gemma 3n): the residual stream is several streams.

A block computes on the first stream only. Before it, each stream is predicted from all of them; after it, each is
corrected by what the block changed in the first. Formulas: transformers 5.24, models/gemma3n.

Dimension letters: B batch, T new tokens, C hidden size, S streams. Between blocks a token's streams are side by side,
(B, T, S C), so that they are one residual stream for everything outside this module.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.model.config import ModelConfig
from llmcli.model.norm import make_norm
from llmcli.model.residual_config import AltupConfig

# The least mean square of a stream before it is scaled.
_LEAST = 1e-5


class AltUp(nn.Module):
    """Predicts the streams before a block, and corrects them after it."""

    def __init__(self, config: ModelConfig, altup: AltupConfig) -> None:
        super().__init__()
        streams, hidden = altup.streams, config.hidden_size
        self.streams = streams
        self.correct_output_scale = nn.Parameter(torch.empty(hidden)) if altup.scaled else None
        self.correction_coefs = nn.Linear(streams, streams, bias=False)
        self.prediction_coefs = nn.Linear(streams, streams**2, bias=False)
        self.modality_router = nn.Linear(hidden, streams, bias=False)
        self.router_norm = make_norm(hidden, config.norm_eps, config.norm)

    def predict(self, x: Tensor) -> Tensor:
        """Streams (B, T, S C) -> predicted streams (B, T, S, C): each plus a mixture of all."""
        streams = x.view(*x.shape[:2], self.streams, -1)  # (B, T, S, C)
        mixing: Tensor = self.prediction_coefs(self._router(streams[:, :, 0]))
        return streams + mixing.view(*x.shape[:2], self.streams, -1) @ streams

    def correct(self, predicted: Tensor, activated: Tensor) -> Tensor:
        """Add to the streams `predicted` (B, T, S, C) what the block changed in the first: to `activated` (B, T, C)."""
        factors: Tensor = self.correction_coefs(self._router(activated)) + 1.0  # (B, T, S)
        return predicted + factors[..., None] * (activated - predicted[:, :, 0])[:, :, None]

    def scaled(self, first: Tensor) -> Tensor:
        """The corrected first stream (B, T, C) as the gate of the per-layer embeddings reads it."""
        return first if self.correct_output_scale is None else first * self.correct_output_scale

    def _router(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, S), from -1 to 1."""
        routed: Tensor = self.modality_router(self.router_norm(x) * x.shape[-1] ** -1.0)
        return torch.tanh(routed.float()).to(x.dtype)


class AltUpStreams(nn.Module):
    """Makes the streams from the embedding, and one stream from them after the last block."""

    def __init__(self, config: ModelConfig, altup: AltupConfig) -> None:
        super().__init__()
        shape = altup.streams - 1, config.hidden_size, config.hidden_size
        self.streams = altup.streams
        self.projections = nn.Parameter(torch.empty(shape))
        self.unembed_projections = nn.Parameter(torch.empty(shape))

    def spread(self, x: Tensor) -> Tensor:
        """Embeddings (B, T, C) -> streams (B, T, S C): the others are projections of the first, as long as it."""
        others = [_as_long_as(F.linear(x, matrix), x) for matrix in self.projections]
        return torch.cat((x, *others), dim=-1)

    def merge(self, x: Tensor) -> Tensor:
        """Streams (..., S C) -> (..., C): the mean of the first and of projections of the others, as long as it."""
        first, *others = x.chunk(self.streams, dim=-1)
        projected = [
            _as_long_as(F.linear(other, matrix), first)
            for other, matrix in zip(others, self.unembed_projections, strict=True)
        ]
        return torch.stack((first, *projected)).mean(0)


def _as_long_as(x: Tensor, target: Tensor) -> Tensor:
    """`x` (..., C), scaled to the root mean square of `target` (..., C)."""
    wanted = target.pow(2).mean(-1, keepdim=True) ** 0.5
    return x * wanted / x.pow(2).mean(-1, keepdim=True).clamp(min=_LEAST).sqrt()
