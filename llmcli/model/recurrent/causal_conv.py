"""A short convolution over the text: each channel mixes its last few inputs, or with a dilation D every D-th of them.

Dimension letters: B batch, T new tokens, W width of the convolution, C channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Function = Callable[[Tensor], Tensor]


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tail: Tensor | None,
    activation: Function | None,
    dilation: int = 1,
) -> tuple[Tensor, Tensor]:
    """`y_t = activation(bias + sum of weight_j * x_(t - (W - 1 - j) D) over j)` for each channel alone.

    `x` (B, T, C) follows the inputs `tail` (B, (W - 1) D, C), or zeros where `tail` is None; `weight` (C, W), `bias`
    (C,), D is `dilation`. Returns y (B, T, C) and the tail of the next tokens. Sums are at least float32, in pieces of
    any size the same.
    """
    tokens, before = x.shape[1], (weight.shape[1] - 1) * dilation
    if tail is None:
        tail = x.new_zeros(x.shape[0], before, x.shape[2])
    inputs = torch.cat((tail, x), dim=1)  # (B, (W - 1) D + T, C)
    wide = torch.promote_types(x.dtype, torch.float32)
    factors = weight.to(wide)
    y = inputs[:, :tokens].to(wide) * factors[:, 0]
    for j in range(1, weight.shape[1]):
        y = y + inputs[:, j * dilation : j * dilation + tokens].to(wide) * factors[:, j]
    if bias is not None:
        y = y + bias.to(wide)
    if activation is not None:
        y = activation(y)
    # A copy: a slice would keep all inputs in memory.
    return y.to(x.dtype), inputs[:, tokens:].clone()


class CausalConv(nn.Module):
    """The convolution with its weights."""

    bias: Tensor | None

    def __init__(
        self, channels: int, width: int, *, bias: bool, activation: Function | None, dilation: int = 1
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, width))
        self.register_parameter("bias", nn.Parameter(torch.empty(channels)) if bias else None)
        self.activation, self.dilation = activation, dilation

    def forward(self, x: Tensor, tail: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, C) after the inputs `tail`: the outputs, and the tail of the next tokens; see `causal_conv`."""
        return causal_conv(x, self.weight, self.bias, tail, self.activation, self.dilation)
