"""A norm linearized at one input, so that a sum of parts can be followed through it part by part.

A norm divides by a scale computed from its whole input. With that scale held at its actual value the rest is linear:
the norm of a sum is the sum over its parts (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits",
on handling layer norm).

Dimension letters: C hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmcli.model.norm import CenteredRMSNorm, LayerNorm, RMSNorm, Scale, ScaledRMSNorm, WeightlessRMSNorm


class FrozenNorm:
    """`c -> gain * (c - mean(c)) + bias` (without the mean for RMSNorm), the linearization at `x`; float32."""

    def __init__(self, norm: nn.Module, x: Tensor) -> None:
        """`x` is (C,); `norm` one of `model/norm.py`, or the identity."""
        x = x.float()
        self.centered = isinstance(norm, LayerNorm)
        self.bias: Tensor | None = None
        if isinstance(norm, LayerNorm):
            weight = torch.ones_like(x) if norm.weight is None else norm.weight.float() + norm.plus_one
            self.gain = weight * torch.rsqrt(x.var(correction=0) + norm.eps)
            self.bias = None if norm.bias is None else norm.bias.float()
        elif isinstance(norm, RMSNorm):
            weight = norm.weight.float() + (1.0 if isinstance(norm, CenteredRMSNorm) else 0.0)
            self.gain = weight * torch.rsqrt(x.pow(2).mean() + norm.eps)
            if isinstance(norm, ScaledRMSNorm):
                self.gain = self.gain * norm.factor
        elif isinstance(norm, WeightlessRMSNorm):
            self.gain = torch.ones_like(x) * torch.rsqrt(x.pow(2).mean() + norm.eps)
        elif isinstance(norm, Scale):
            self.gain = torch.full_like(x, norm.factor)
        elif isinstance(norm, nn.Identity):
            self.gain = torch.ones_like(x)
        else:
            raise TypeError(f"{type(norm).__name__} is not a norm that can be held fixed")

    def apply(self, parts: Tensor) -> Tensor:
        """Map parts (..., C) of the input, without the bias."""
        if self.centered:
            parts = parts - parts.mean(-1, keepdim=True)
        return self.gain * parts

    def pull_back(self, direction: Tensor) -> Tensor:
        """Map a `direction` (C,) in the norm's output to the corresponding direction in its input.

        `pull_back(d) @ c == d @ apply(c)` for every c.
        """
        pulled = self.gain * direction
        return pulled - pulled.mean() if self.centered else pulled
