"""Learned augmented residual layer (LAuReL, Menghani et al. 2024, arXiv:2411.07501, section 2; Gemma 3n)."""

from __future__ import annotations

from torch import Tensor, nn

from llmcli.model.config import ModelConfig
from llmcli.model.norm import make_norm


class Laurel(nn.Module):
    """A path of low rank beside attention: `x + norm(right(left(x)))`."""

    def __init__(self, config: ModelConfig, rank: int) -> None:
        super().__init__()
        self.linear_left = nn.Linear(config.hidden_size, rank, bias=False)
        self.linear_right = nn.Linear(rank, config.hidden_size, bias=False)
        self.post_laurel_norm = make_norm(config.hidden_size, config.norm_eps, config.norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        added: Tensor = self.post_laurel_norm(self.linear_right(self.linear_left(x)))
        return x + added
