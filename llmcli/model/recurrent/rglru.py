"""The real-gated linear recurrent unit: a layer whose channels fade as fast as a gate says (Griffin, arXiv:2402.19427).

Dimension letters: B batch, T new tokens, C hidden size, D channels, H blocks of channels, S channels of a block.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.model.attention.attention import Positions
from llmcli.model.cache.state import State, StateCache
from llmcli.model.config import ModelConfig
from llmcli.model.feed_forward import make_activation
from llmcli.model.mixer_config import RglruConfig
from llmcli.model.recurrent.causal_conv import CausalConv
from llmcli.model.recurrent.mamba import selective_scan
from llmcli.model.recurrent.recurrence import Recurrence

POWER = 8.0
"""The power of the fading factor at a gate of one (section 2.4)."""
# The least gate: inputs are divided by gates, and a sigmoid can round to zero. At this one a memory does not fade.
_LEAST_GATE = 1e-30


class Rglru(nn.Module):
    """`h_t = a_t h_(t-1) + sqrt(1 - a_t^2) i_t x_t` with `a_t = a^(8 r_t)`, behind a convolution and beside a gate.

    Gates r and i of a channel are made from the channels of its block.
    """

    def __init__(self, config: ModelConfig, rglru: RglruConfig, index: int) -> None:
        super().__init__()
        self.index, hidden, width = index, config.hidden_size, rglru.width
        size = width // rglru.blocks
        self.linear_y, self.linear_x = nn.Linear(hidden, width), nn.Linear(hidden, width)
        self.conv1d = CausalConv(width, rglru.conv_width, bias=True, activation=None)
        self.input_gate_weight = nn.Parameter(torch.empty(rglru.blocks, size, size))
        self.input_gate_bias = nn.Parameter(torch.empty(rglru.blocks, size))
        self.recurrent_gate_weight = nn.Parameter(torch.empty(rglru.blocks, size, size))
        self.recurrent_gate_bias = nn.Parameter(torch.empty(rglru.blocks, size))
        self.recurrent_param = nn.Parameter(torch.empty(width))  # float32
        self.recurrence = Recurrence(selective_scan)
        self.linear_out = nn.Linear(width, hidden)
        self.activation = make_activation(config.activation)

    def forward(self, x: Tensor, _place: Positions, cache: StateCache | None) -> Tensor:
        """Read the new tokens `x` (B, T, C) after those that the cached state comes from; returns (B, T, C)."""
        before = None if cache is None else cache.state(self.index)
        mixed, tail = self.conv1d(self.linear_x(x), None if before is None else before.tail)  # (B, T, D)
        values = mixed.float()
        # As a selective scan with a state of one value: the gate is the step size, and `rate` its factor.
        step = _gate(values, self.recurrent_gate_weight, self.recurrent_gate_bias).clamp_min(_LEAST_GATE)
        rate = -POWER * F.softplus(self.recurrent_param)[:, None]  # (D, 1)
        new = values * _gate(values, self.input_gate_weight, self.input_gate_bias)
        factor = (-torch.expm1(2 * step * rate[:, 0])).sqrt()
        if before is None:
            # The first token of a text is taken in whole.
            factor = torch.cat((torch.ones_like(factor[:, :1]), factor[:, 1:]), dim=1)
        ones = torch.ones_like(step[..., :1])
        memory = None if before is None else before.sum
        output, memory = self.recurrence(new * factor / step, step, rate, ones, ones, memory)
        if cache is not None:
            cache.store(self.index, State(tail, memory))
        projected: Tensor = self.linear_out(output.to(x.dtype) * self.activation(self.linear_y(x)))
        return projected


def _gate(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Gates (B, T, D) of `values` (B, T, D), by matrices (H, S, S) and biases (H, S) of blocks of channels."""
    blocks = values.view(*values.shape[:2], *bias.shape)  # (B, T, H, S)
    return torch.sigmoid(torch.einsum("bths,hsr->bthr", blocks, weight.float()) + bias.float()).flatten(2)
