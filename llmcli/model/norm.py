"""Normalization of the residual stream, of queries and of keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.model.config import NormStyle


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x^2) + eps) * weight` (Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4)."""

    def __init__(self, size: int | tuple[int, ...], eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension; any shape (..., size)."""
        # Rounded before the weight is applied, as in training: this changes results in bfloat16.
        return self.weight * root_mean_square(x, self.eps).to(x.dtype)


class LateRoundedRMSNorm(RMSNorm):
    """RMSNorm that is rounded to the type of the activations only after the weight is applied."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension; any shape (..., size)."""
        return (root_mean_square(x, self.eps) * self.weight.float()).to(x.dtype)


class CenteredRMSNorm(RMSNorm):
    """RMSNorm with the factor 1 + weight, rounded to the type of the activations after the weight is applied."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension; any shape (..., size)."""
        return (root_mean_square(x, self.eps) * (1.0 + self.weight.float())).to(x.dtype)


class ScaledRMSNorm(RMSNorm):
    """RMSNorm whose output is multiplied by a constant."""

    def __init__(self, size: int, eps: float, factor: float) -> None:
        super().__init__(size, eps)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension; any shape (..., size)."""
        return super().forward(x) * self.factor


class WeightlessRMSNorm(nn.Module):
    """`x / sqrt(mean(x^2) + eps)`."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension; any shape."""
        return root_mean_square(x, self.eps).to(x.dtype)


class LayerNorm(nn.Module):
    """`(x - mean(x)) / sqrt(var(x) + eps) * weight + bias` (Ba et al. 2016, arXiv:1607.06450); either may be absent.

    The shape of the weight may have more dimensions than the one that is normalized: then it broadcasts.
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, size: int | tuple[int, ...], eps: float, style: NormStyle) -> None:
        super().__init__()
        self.register_parameter("weight", nn.Parameter(torch.empty(size)) if style.weight else None)
        self.register_parameter("bias", nn.Parameter(torch.empty(size)) if style.bias else None)
        self.plus_one = 1.0 if style.plus_one else 0.0
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension; any shape (..., size)."""
        normed = F.layer_norm(x.float(), x.shape[-1:], eps=self.eps)
        if self.weight is not None:
            normed = normed * (self.weight.float() + self.plus_one)
        if self.bias is not None:
            normed = normed + self.bias.float()
        return normed.to(x.dtype)


class Scale(nn.Module):
    """Multiplication by a constant, in place of an output norm."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Scale `x` of any shape."""
        return x * self.factor


def root_mean_square(x: Tensor, eps: float) -> Tensor:
    """`x` with the last dimension scaled to a root mean square of 1, in float32."""
    x32 = x.float()
    return x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)


def make_norm(size: int | tuple[int, ...], eps: float, style: NormStyle) -> nn.Module:
    """Make the norm of a `style`, with weights of shape `size`; it normalizes the last dimension."""
    if style.kind == "none":
        return nn.Identity()
    if style.kind == "layer":
        return LayerNorm(size, eps, style)
    if not style.weight:
        return WeightlessRMSNorm(eps)
    if style.plus_one:
        return CenteredRMSNorm(size, eps)
    return RMSNorm(size, eps) if style.round_first else LateRoundedRMSNorm(size, eps)
