"""Mamba: a layer whose channels each keep a fading memory of the text (Gu & Dao 2023, arXiv:2312.00752).

Dimension letters: B batch, T new tokens, C hidden size, D channels, N size of a channel's state, R rank of step sizes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.model.attention.attention import Positions
from llmcli.model.cache.state import State, StateCache
from llmcli.model.config import ModelConfig
from llmcli.model.mixer_config import MambaConfig
from llmcli.model.norm import RMSNorm, WeightlessRMSNorm
from llmcli.model.recurrent.causal_conv import CausalConv
from llmcli.model.recurrent.recurrence import Recurrence

# Tokens whose decays are in memory at a time.
_BLOCK = 32


def selective_scan(
    x: Tensor, step: Tensor, rate: Tensor, write: Tensor, read: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Outputs (B, T, D) of all tokens, and the memory (B, D, N) after the last.

    Each value of the memory fades by its own factor, and adds the token's value (algorithm 2 of the paper):

        S <- exp(step A) S + step x B^T;  y = S C

    Values `x` and step sizes (B, T, D), negative `rate` A (D, N), and B and C as `write` and `read` (B, T, N) are of
    one type, in which all is computed; so is `state`, the memory before; None: it is empty.
    """
    if state is None:
        state = x.new_zeros(x.shape[0], *rate.shape)
    outputs = []
    for start in range(0, x.shape[1], _BLOCK):
        now = slice(start, start + _BLOCK)
        decay = (step[:, now, :, None] * rate).exp()  # (B, block, D, N)
        added = (step[:, now] * x[:, now])[..., None] * write[:, now, None]
        states = []
        for kept, new in zip(decay.unbind(1), added.unbind(1), strict=True):
            state = torch.addcmul(new, kept, state)
            states.append(state)
        outputs.append((torch.stack(states, dim=1) @ read[:, now, :, None]).squeeze(-1))
    return torch.cat(outputs, dim=1), state


class Mamba(nn.Module):
    """Values go through a short convolution; from them come step sizes, B and C. A gate multiplies the output."""

    def __init__(self, config: ModelConfig, mamba: MambaConfig, index: int) -> None:
        super().__init__()
        self.index = index
        hidden, width = config.hidden_size, mamba.width
        self.sizes = mamba.step_rank, mamba.state, mamba.state
        self.in_proj = nn.Linear(hidden, 2 * width, bias=mamba.bias)
        self.conv1d = CausalConv(width, mamba.conv_width, bias=mamba.conv_bias, activation=F.silu)
        self.x_proj = nn.Linear(width, sum(self.sizes), bias=False)
        self.dt_proj = nn.Linear(mamba.step_rank, width)
        self.A = nn.Parameter(torch.empty(width, mamba.state))  # negative; float32, as the next
        self.D = nn.Parameter(torch.empty(width))
        self.recurrence = Recurrence(selective_scan)
        norms: list[nn.Module] = [nn.Identity() for _ in self.sizes]
        if mamba.norms == "weights":
            norms = [RMSNorm(size, config.norm_eps) for size in self.sizes]
        elif mamba.norms == "weightless":
            norms = [WeightlessRMSNorm(mamba.norms_eps) for _ in self.sizes]
        self.dt_norm, self.b_norm, self.c_norm = norms
        self.out_proj = nn.Linear(width, hidden, bias=mamba.bias)

    def forward(self, x: Tensor, _place: Positions, cache: StateCache | None) -> Tensor:
        """Read the new tokens `x` (B, T, C) after those that the cached state comes from; returns (B, T, C)."""
        before = None if cache is None else cache.state(self.index)
        values, gate = self.in_proj(x).chunk(2, dim=-1)
        mixed, tail = self.conv1d(values, None if before is None else before.tail)  # (B, T, D)
        step, write, read = self.x_proj(mixed).split(self.sizes, dim=-1)  # (B, T, R), (B, T, N), (B, T, N)
        step = F.softplus(self.dt_proj(self.dt_norm(step)).float())
        write, read = self.b_norm(write).float(), self.c_norm(read).float()
        values = mixed.float()
        memory = None if before is None else before.sum
        output, memory = self.recurrence(values, step, self.A, write, read, memory)
        if cache is not None:
            cache.store(self.index, State(tail, memory))
        gated = (output + self.D * values) * F.silu(gate.float())
        projected: Tensor = self.out_proj(gated.to(x.dtype))
        return projected
