"""A mixture of experts beside a dense network, each with norms of its input and its output (Gemma 4 26B-A4B).

Formulas: transformers 5.24, models/gemma4. Dimension letters: B batch, T new tokens, N tokens, C hidden size.
"""

from __future__ import annotations

from torch import Tensor

from llmcli.model.config import ExpertsConfig, ModelConfig
from llmcli.model.mixture_of_experts import MixtureOfExperts
from llmcli.model.norm import make_norm


class ExpertsBesideDense(MixtureOfExperts):
    """`norm(dense(norm(x))) + norm(experts(norm(x)))`; the router reads `x`, the residual stream itself.

    The dense network is the shared expert: every token goes through it.
    """

    def __init__(self, config: ModelConfig, experts: ExpertsConfig) -> None:
        super().__init__(config, experts)
        hidden, eps, style = config.hidden_size, config.norm_eps, config.norm
        self.shared_norm, self.shared_output_norm = make_norm(hidden, eps, style), make_norm(hidden, eps, style)
        self.experts_norm, self.experts_output_norm = make_norm(hidden, eps, style), make_norm(hidden, eps, style)

    def forward(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C); `ids` as for `MixtureOfExperts`."""
        assert self.shared_expert is not None
        dense: Tensor = self.shared_output_norm(self.shared_expert(self.shared_input(x)))
        tokens = x.flatten(0, 1)  # (N, C)
        chosen, weights = self.gate(tokens, ids)
        routed = self._routed(self.experts_input(tokens), chosen, weights.to(x.dtype)).view_as(x)
        beside: Tensor = self.experts_output_norm(routed)
        return dense + beside

    def experts_input(self, x: Tensor) -> Tensor:
        """What the experts read where the mixture reads `x`, any shape (..., C)."""
        normed: Tensor = self.experts_norm(x)
        return normed

    def shared_input(self, x: Tensor) -> Tensor:
        """What the dense network reads where the mixture reads `x`, any shape (..., C)."""
        normed: Tensor = self.shared_norm(x)
        return normed
