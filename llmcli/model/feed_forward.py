"""The feed-forward network, which holds most of a model's parameters."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.model.config import Activation


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _relu2(x: Tensor) -> Tensor:
    return F.relu(x).square()


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": F.relu,
    "relu2": _relu2,
    "quick_gelu": _quick_gelu,
}


class FeedForward(nn.Module):
    """`down(act(gate(x)) * up(x))`: SwiGLU when the activation is SiLU (Shazeer 2020, arXiv:2002.05202, eq. 6)."""

    def __init__(
        self, hidden: int, intermediate: int, activation: Activation, *, bias: bool, sparsity: float | None = None
    ) -> None:
        """With a `sparsity` s, gate activations become `max(0, gate - mean - s * standard deviation)` (Gemma 3n)."""
        super().__init__()
        self.sparsity = sparsity
        self.gate_proj = nn.Linear(hidden, intermediate, bias=bias)
        self.up_proj = nn.Linear(hidden, intermediate, bias=bias)
        self.down_proj = nn.Linear(intermediate, hidden, bias=bias)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        output: Tensor = self.down_proj(self.neurons(x))
        return output

    def neurons(self, x: Tensor) -> Tensor:
        """The signed activation of each neuron; (B, T, C) -> (B, T, I)."""
        gate: Tensor = self.gate_proj(x)
        if self.sparsity is not None:
            # Of normally distributed activations a known share is above the cutoff, so none need be sorted.
            spread = gate.std(-1, keepdim=True, unbiased=False)
            gate = F.relu(gate - (gate.mean(-1, keepdim=True) + spread * self.sparsity))
        fired: Tensor = self.activation(gate) * self.up_proj(x)
        return fired


class PlainFeedForward(nn.Module):
    """`down(act(up(x)))`, without a gate (Vaswani et al. 2017, eq. 2)."""

    def __init__(self, hidden: int, intermediate: int, activation: Activation, *, bias: bool) -> None:
        super().__init__()
        self.up_proj = nn.Linear(hidden, intermediate, bias=bias)
        self.down_proj = nn.Linear(intermediate, hidden, bias=bias)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        output: Tensor = self.down_proj(self.neurons(x))
        return output

    def neurons(self, x: Tensor) -> Tensor:
        """The activation of each neuron; (B, T, C) -> (B, T, I)."""
        return self.activation(self.up_proj(x))
