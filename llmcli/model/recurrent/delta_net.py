"""The gated delta net: a layer whose memory learns what belongs to a key, and corrects itself.

`delta_rule.py` is the recurrence itself. Dimension letters: B batch, T new tokens, C hidden size, H value heads,
K size of a key, V size of a value.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.model.attention.attention import Positions
from llmcli.model.cache.state import State, StateCache
from llmcli.model.config import ModelConfig
from llmcli.model.mixer_config import DeltaConfig
from llmcli.model.recurrent.causal_conv import CausalConv
from llmcli.model.recurrent.delta_rule import delta_rule
from llmcli.model.recurrent.gated_norm import GatedRMSNorm
from llmcli.model.recurrent.recurrence import Recurrence

# Inside the root of the sum of squares by which queries and keys are divided.
_UNIT_EPS = 1e-6


class DeltaNet(nn.Module):
    """A gated delta net (Yang et al. 2024, arXiv:2412.06464), or Kimi's delta attention (arXiv:2510.26692).

    Queries, keys and values go through a short convolution, then through the delta rule; z gates the output, b says how
    much a token replaces, and a how fast the memory fades.
    """

    def __init__(self, config: ModelConfig, delta: DeltaConfig, index: int) -> None:
        super().__init__()
        self.delta, self.index = delta, index
        hidden, heads = config.hidden_size, delta.value_heads
        keys, values = delta.key_heads * delta.key_dim, heads * delta.value_dim
        decays = heads if delta.decay == "head" else heads * delta.key_dim
        self.sizes = keys, keys, values
        self.in_proj_qkv = nn.Linear(hidden, sum(self.sizes), bias=False)
        self.in_proj_z = _projection(hidden, values, delta.gate_rank)
        self.in_proj_b = nn.Linear(hidden, heads, bias=False)
        self.in_proj_a = _projection(hidden, decays, delta.gate_rank)
        self.conv1d = CausalConv(sum(self.sizes), delta.conv_width, bias=False, activation=F.silu)
        self.A = nn.Parameter(torch.empty(heads))  # negative; float32
        self.dt_bias = nn.Parameter(torch.empty(decays))  # float32
        self.recurrence = Recurrence(delta_rule)
        self.norm = GatedRMSNorm(
            delta.value_dim,
            config.norm_eps if delta.norm_eps is None else delta.norm_eps,
            "norm_first",
            activation=delta.gate,
            round_first=delta.decay == "head" and not delta.late_rounding,
        )
        self.out_proj = nn.Linear(values, hidden, bias=False)

    def forward(self, x: Tensor, place: Positions, cache: StateCache | None) -> Tensor:
        """Read the new tokens `x` (B, T, C) after those that the cached state comes from; returns (B, T, C)."""
        before = None if cache is None else cache.state(self.index)
        mixed, tail = self.conv1d(self.in_proj_qkv(x), None if before is None else before.tail)
        q, k, v = mixed.float().split(self.sizes, dim=-1)
        q, k = (self._per_value_head(_unit(part.unflatten(-1, (-1, self.delta.key_dim)))) for part in (q, k))
        beta = torch.sigmoid(self.in_proj_b(x).float()) * self.delta.beta_scale  # (B, T, H)
        output, memory = self.recurrence(
            q * self.delta.key_dim**-0.5,
            k,
            v.unflatten(-1, (-1, self.delta.value_dim)),
            self._log_decay(x),
            beta,
            None if before is None else before.sum,
        )
        if cache is not None:
            cache.store(self.index, State(tail, memory))
        gate = self.in_proj_z(x).view(output.shape)  # (B, T, H, V)
        mixed = self.norm(output, gate).flatten(2)
        projected: Tensor = self.out_proj(mixed)
        return projected

    def _log_decay(self, x: Tensor) -> Tensor:
        """Logarithms of the factors by which tokens `x` (B, T, C) let the memory fade: float32, (B, T, H, 1 or K)."""
        raw = (self.in_proj_a(x).float() + self.dt_bias).unflatten(-1, (self.delta.value_heads, -1))
        rate = self.A[:, None]
        if self.delta.safe_decay is not None:
            return self.delta.safe_decay * torch.sigmoid(-rate * raw)
        return rate * F.softplus(raw)

    def _per_value_head(self, x: Tensor) -> Tensor:
        """Queries or keys (B, T, key heads, K), repeated for the value heads that share them: (B, T, H, K)."""
        shared = self.delta.value_heads // self.delta.key_heads
        return x.repeat(1, 1, shared, 1) if self.delta.tiled else x.repeat_interleave(shared, dim=2)


class LowRank(nn.Module):
    """Two projections in a row, with few values between them."""

    def __init__(self, inputs: int, rank: int, outputs: int) -> None:
        super().__init__()
        self.linear_left = nn.Linear(inputs, rank, bias=False)
        self.linear_right = nn.Linear(rank, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        output: Tensor = self.linear_right(self.linear_left(x))
        return output


def _projection(inputs: int, outputs: int, rank: int | None) -> nn.Module:
    return nn.Linear(inputs, outputs, bias=False) if rank is None else LowRank(inputs, rank, outputs)


def _unit(x: Tensor) -> Tensor:
    """`x` (..., K) scaled to length 1."""
    return x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + _UNIT_EPS)
