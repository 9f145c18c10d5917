"""The norm at the end of a recurrent layer, with the gate on its output."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.model.norm import root_mean_square


class GatedRMSNorm(nn.Module):
    """RMSNorm of groups of channels, multiplied by an activation of a gate, before or after it.

    "norm_first" is `norm(x) * act(gate)`, "gate_first" `norm(x * act(gate))` (Mamba-2, arXiv:2405.21060, section 7.2).
    """

    def __init__(
        self,
        size: int,
        eps: float,
        order: Literal["norm_first", "gate_first"],
        *,
        groups: int = 1,
        activation: Literal["silu", "sigmoid"] = "silu",
        round_first: bool = True,
    ) -> None:
        """With `round_first`, rounds to the type of the activations before the weight is applied."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps, self.groups, self.round_first = eps, groups, round_first
        self.gate_first = order == "gate_first"
        self.activation = F.silu if activation == "silu" else torch.sigmoid

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """Normalize `x` (..., size) in the type of the gate (..., size); `x` itself may be float32."""
        factor = self.activation(gate.float())
        if self.gate_first:
            x = x.float() * factor
        groups = x.reshape(*x.shape[:-1], self.groups, -1)
        normed = root_mean_square(groups, self.eps).flatten(-2)
        weighted = self.weight * normed.to(gate.dtype) if self.round_first else self.weight.float() * normed
        return (weighted if self.gate_first else weighted * factor).to(gate.dtype)
