"""Mamba-2: a layer whose heads keep a fading memory of the text (Dao & Gu 2024, arXiv:2405.21060).

`ssd.py` is the recurrence itself. Dimension letters: B batch, T new tokens, C hidden size, H heads, P values of a head,
G groups, N size of a state.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.model.attention.attention import Positions
from llmcli.model.cache.state import State, StateCache
from llmcli.model.config import ModelConfig
from llmcli.model.mixer_config import Mamba2Config
from llmcli.model.recurrent.causal_conv import CausalConv
from llmcli.model.recurrent.gated_norm import GatedRMSNorm
from llmcli.model.recurrent.recurrence import Recurrence
from llmcli.model.recurrent.ssd import ssd


class Mamba2(nn.Module):
    """One projection makes gates, values, B, C and step sizes; values, B and C go through a short convolution."""

    def __init__(self, config: ModelConfig, mamba: Mamba2Config, index: int) -> None:
        super().__init__()
        self.mamba, self.index = mamba, index
        hidden, inner, shared = config.hidden_size, mamba.heads * mamba.head_dim, mamba.groups * mamba.state
        self.sizes = inner, inner + 2 * shared, mamba.heads
        self.mixed_sizes = inner, shared, shared
        self.in_proj = nn.Linear(hidden, sum(self.sizes), bias=mamba.bias)
        self.conv1d = CausalConv(inner + 2 * shared, mamba.conv_width, bias=mamba.conv_bias, activation=F.silu)
        self.A = nn.Parameter(torch.empty(mamba.heads))  # negative; float32, as the next two
        self.D = nn.Parameter(torch.empty(mamba.heads))
        self.dt_bias = nn.Parameter(torch.empty(mamba.heads))
        self.recurrence = Recurrence(ssd)
        self.norm = None
        if mamba.norm is not None:
            groups, late = mamba.groups, mamba.norm == "norm_first"
            self.norm = GatedRMSNorm(inner, config.norm_eps, mamba.norm, groups=groups, round_first=not late)
        self.out_proj = nn.Linear(inner, hidden, bias=mamba.bias)

    def forward(self, x: Tensor, _place: Positions, cache: StateCache | None) -> Tensor:
        """Read the new tokens `x` (B, T, C) after those that the cached state comes from; returns (B, T, C)."""
        before = None if cache is None else cache.state(self.index)
        gate, values, step = self.in_proj(x).split(self.sizes, dim=-1)
        mixed, tail = self.conv1d(values, None if before is None else before.tail)
        values, write, read = mixed.float().split(self.mixed_sizes, dim=-1)
        values = values.view(*x.shape[:2], self.mamba.heads, -1)  # (B, T, H, P)
        write, read = (part.view(*x.shape[:2], self.mamba.groups, -1) for part in (write, read))  # (B, T, G, N)
        step = F.softplus(step.float() + self.dt_bias).clamp(self.mamba.min_step, self.mamba.max_step)  # (B, T, H)
        output, memory = self.recurrence(values, step, self.A, write, read, None if before is None else before.sum)
        if cache is not None:
            cache.store(self.index, State(tail, memory))
        output = (output + self.D[:, None] * values).flatten(2)
        gated = self.norm(output, gate) if self.norm is not None else (output * F.silu(gate.float())).to(x.dtype)
        projected: Tensor = self.out_proj(gated)
        return projected
