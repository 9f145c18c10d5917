"""The feed-forward network, which holds most of a model's parameters."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.model.config import Activation, HeadLayer, ModelConfig
from llmcli.model.norm import RMSNorm, make_norm


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _relu2(x: Tensor) -> Tensor:
    return F.relu(x).square()


class XIELU(nn.Module):
    """`a x^2 + x / 2` above 0, `b (exp(x) - 1 - x) + x / 2` below, for learned a > 0, b > 1/2 (arXiv:2411.13010)."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha_p = nn.Parameter(torch.empty(1))
        self.alpha_n = nn.Parameter(torch.empty(1))

    @property
    def above(self) -> Tensor:
        """The factor `a` (1,)."""
        return F.softplus(self.alpha_p)

    @property
    def below(self) -> Tensor:
        """The factor `b` (1,)."""
        return 0.5 + F.softplus(self.alpha_n)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        # Clamped below 0, where the value is not used for x > 0, so that large x do not overflow.
        return torch.where(x > 0, self.above * x * x, (torch.expm1(x.clamp(max=-1e-6)) - x) * self.below) + 0.5 * x


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": F.relu,
    "relu2": _relu2,
    "quick_gelu": _quick_gelu,
}


def make_activation(name: Activation) -> Callable[[Tensor], Tensor]:
    """The function of that name; xIELU is a module, with parameters."""
    return XIELU() if name == "xielu" else _ACTIVATIONS[name]


class FeedForward(nn.Module):
    """`down(act(gate(x)) * up(x))`: SwiGLU when the activation is SiLU (Shazeer 2020, arXiv:2002.05202, eq. 6)."""

    def __init__(
        self,
        hidden: int,
        intermediate: int,
        activation: Activation,
        *,
        bias: bool,
        sparsity: float | None = None,
        sub_norm_eps: float | None = None,
        limit: float | None = None,
    ) -> None:
        """With a `sparsity` s, gate activations become `max(0, gate - mean - s * standard deviation)` (Gemma 3n).

        `limit` clamps the gate from above and the other projection on both sides; None: they are not clamped.
        `sub_norm_eps` is that of a norm before the output projection; None: there is no such norm.
        """
        super().__init__()
        self.sparsity, self.limit = sparsity, limit
        self.gate_proj = nn.Linear(hidden, intermediate, bias=bias)
        self.up_proj = nn.Linear(hidden, intermediate, bias=bias)
        self.down_proj = nn.Linear(intermediate, hidden, bias=bias)
        self.activation = make_activation(activation)
        self.sub_norm = None if sub_norm_eps is None else RMSNorm(intermediate, sub_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        output: Tensor = self.down_proj(self.neurons(x))
        return output

    def neurons(self, x: Tensor) -> Tensor:
        """The signed activation of each neuron, normalized if there is a norm; (B, T, C) -> (B, T, I)."""
        gate: Tensor = self.gate_proj(x)
        if self.sparsity is not None:
            # Of normally distributed activations a known share is above the cutoff, so none need be sorted.
            spread = gate.std(-1, keepdim=True, unbiased=False)
            gate = F.relu(gate - (gate.mean(-1, keepdim=True) + spread * self.sparsity))
        up: Tensor = self.up_proj(x)
        if self.limit is not None:
            gate, up = clamped(gate, up, self.limit)
        fired: Tensor = self.activation(gate) * up
        return fired if self.sub_norm is None else self.sub_norm(fired)


def clamped(gate: Tensor, up: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """Both projections within `limit`, of any shape: the gate from above only, since it may be very negative."""
    return gate.clamp(max=limit), up.clamp(-limit, limit)


class PlainFeedForward(nn.Module):
    """`down(act(up(x)))`, without a gate (Vaswani et al. 2017, eq. 2)."""

    def __init__(self, hidden: int, intermediate: int, activation: Activation, *, bias: bool) -> None:
        super().__init__()
        self.up_proj = nn.Linear(hidden, intermediate, bias=bias)
        self.down_proj = nn.Linear(intermediate, hidden, bias=bias)
        self.activation = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        output: Tensor = self.down_proj(self.neurons(x))
        return output

    def neurons(self, x: Tensor) -> Tensor:
        """The activation of each neuron; (B, T, C) -> (B, T, I)."""
        return self.activation(self.up_proj(x))


class DenseHead(nn.Module):
    """A dense layer in front of the output head: `norm(act(dense(x)))` (ModernBERT, arXiv:2412.13663)."""

    def __init__(self, config: ModelConfig, layer: HeadLayer) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=layer.bias)
        self.activation = make_activation(layer.activation)
        self.norm = make_norm(config.hidden_size, config.norm_eps, config.norm)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        y: Tensor = self.norm(self.activation(self.dense(x)))
        return y
