"""Mixture of experts: a router sends each token to a few of the layer's feed-forward networks.

Dimension letters: N tokens (of all sequences), E experts, k experts chosen for each token, C hidden size, I size of an
expert.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.model.config import ExpertsConfig, ModelConfig
from llmcli.model.feed_forward import FeedForward, PlainFeedForward, clamped, make_activation
from llmcli.model.norm import root_mean_square
from llmcli.model.quantized.matrix import PackedMatrix


class Router(nn.Module):
    """The router: chooses the experts of each token and their weights."""

    e_score_correction_bias: Tensor | None
    bias: Tensor | None

    scale: Tensor | None
    per_expert_scale: Tensor | None
    tid2eid: Tensor | None

    def __init__(self, hidden: int, experts: ExpertsConfig, eps: float, tokens: int = 0) -> None:
        """`eps` is that of the norm of the input, if there is one; `tokens` is the size of the vocabulary."""
        super().__init__()
        self.experts, self.eps = experts, eps
        self.weight = nn.Parameter(torch.empty(experts.count, hidden))
        self.register_parameter("bias", nn.Parameter(torch.empty(experts.count)) if experts.router_bias else None)
        self.register_parameter("scale", nn.Parameter(torch.empty(hidden)) if experts.router_scale else None)
        factors = nn.Parameter(torch.empty(experts.count)) if experts.expert_scale else None
        self.register_parameter("per_expert_scale", factors)
        selection = nn.Parameter(torch.empty(experts.count)) if experts.selection_bias else None
        self.register_parameter("e_score_correction_bias", selection)
        table = torch.empty(tokens, experts.chosen, dtype=torch.int64) if experts.by_token else None
        self.register_parameter("tid2eid", None if table is None else nn.Parameter(table, requires_grad=False))

    def forward(self, x: Tensor, ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Indices of the chosen experts of tokens `x` (N, C) and their weights in float32, both (N, k).

        `ids` (B, T) are the tokens, where a table has the experts of each.
        """
        experts = self.experts
        if self.scale is not None:
            x = root_mean_square(x, self.eps).to(x.dtype) * self.scale * x.shape[-1] ** -0.5
        if experts.float32_router:
            logits = F.linear(x.float(), self.weight.float())
        else:
            logits = F.linear(x, self.weight, self.bias).float()
        if experts.router_softcap is not None:
            logits = experts.router_softcap * torch.tanh(logits / experts.router_softcap)
        if experts.score == "sparse_mixing":
            chosen, weights = _sparse_mixing(logits, experts)
        elif experts.score == "sigmoid_of_biased":
            chosen = self._eligible(logits).topk(experts.chosen, dim=-1).indices
            weights = logits.gather(-1, chosen).sigmoid()
        elif experts.score in ("softmax_of_chosen", "sigmoid_of_chosen"):
            best, chosen = logits.topk(experts.chosen, dim=-1)
            weights = best.softmax(-1) if experts.score == "softmax_of_chosen" else best.sigmoid()
        else:
            scores = _SCORES[experts.score](logits)
            if self.tid2eid is None:
                chosen = self._eligible(scores).topk(experts.chosen, dim=-1).indices
            else:
                assert ids is not None
                chosen = self.tid2eid[ids.flatten()]
            weights = scores.gather(-1, chosen)
        if experts.normalized:
            # The constant of DeepSeek-V3; a softmax never comes near it.
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        if self.per_expert_scale is not None:
            weights = weights * self.per_expert_scale[chosen]
        return chosen, weights * experts.scale

    def _eligible(self, scores: Tensor) -> Tensor:
        """The scores (N, E) for choosing experts: with selection bias, and minus infinity outside the best groups."""
        experts = self.experts
        if self.e_score_correction_bias is not None:
            scores = scores + self.e_score_correction_bias.float()
        if experts.groups_chosen == experts.groups:
            return scores
        grouped = scores.view(len(scores), experts.groups, -1)  # (N, groups, E / groups)
        counted = 1 if experts.group_score == "best" else 2
        of_groups = grouped.topk(counted, dim=-1).values.sum(-1)
        kept = of_groups.topk(experts.groups_chosen, dim=-1).indices  # (N, groups_chosen)
        dropped = torch.ones_like(of_groups, dtype=torch.bool).scatter(-1, kept, False)
        return grouped.masked_fill(dropped[..., None], -torch.inf).flatten(-2)


_SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits.softmax(-1),
    "sigmoid": torch.sigmoid,
    "sqrt_softplus": lambda logits: F.softplus(logits).sqrt(),
}


def _sparse_mixing(logits: Tensor, experts: ExpertsConfig) -> tuple[Tensor, Tensor]:
    """Choose one expert after the other by `logits` (N, E): indices and weights, both (N, k)."""
    left, chosen, weights = logits, [], []
    for _ in range(experts.chosen):
        best, index = left.max(-1, keepdim=True)  # (N, 1)
        behind = (best - logits) / torch.maximum(logits.abs(), best) > experts.mixing_range
        chosen.append(index)
        weights.append(left.masked_fill(behind, -torch.inf).softmax(-1).gather(-1, index))
        left = left.scatter(-1, index, -torch.inf)
    return torch.cat(chosen, dim=-1), torch.cat(weights, dim=-1)


class ExpertWeights(nn.Module):
    """The parameters of all experts of a layer in stacked tensors.

    `gate_up_proj` has gate rows first, then up rows; experts without a gate have `up_proj`.
    """

    gate_up_proj: nn.Parameter | PackedMatrix
    up_proj: nn.Parameter | PackedMatrix
    down_proj: nn.Parameter | PackedMatrix
    gate_up_proj_bias: Tensor | None
    down_proj_bias: Tensor | None

    def __init__(self, config: ModelConfig, experts: ExpertsConfig) -> None:
        super().__init__()
        self.first, stop = experts.held_range
        self.count = count = stop - self.first
        size, hidden = experts.intermediate_size, experts.latent_size or config.hidden_size
        self.gated = experts.gated
        if self.gated:
            self.gate_up_proj = nn.Parameter(torch.empty(count, 2 * size, hidden))
        else:
            self.up_proj = nn.Parameter(torch.empty(count, size, hidden))
        self.down_proj = nn.Parameter(torch.empty(count, hidden, size))
        biases = (nn.Parameter(torch.empty(count, 2 * size)), nn.Parameter(torch.empty(count, hidden)))
        self.register_parameter("gate_up_proj_bias", biases[0] if experts.bias else None)
        self.register_parameter("down_proj_bias", biases[1] if experts.bias else None)
        self.activation = make_activation(config.activation)
        self.glu, self.limit = experts.glu, experts.limit

    @property
    def inner(self) -> nn.Parameter | PackedMatrix:
        """The stack that the experts' inputs are multiplied by: `gate_up_proj` or `up_proj`."""
        return self.gate_up_proj if self.gated else self.up_proj

    @property
    def packed(self) -> bool:
        """Whether any of the two weight tensors is quantized."""
        return isinstance(self.inner, PackedMatrix) or isinstance(self.down_proj, PackedMatrix)

    @property
    def dtype(self) -> torch.dtype:
        """The data type of activations."""
        return self.down_proj.dtype

    def forward(self, rows: Tensor, counts: list[int]) -> Tensor:
        """Send `rows` (M, C) through their experts; rows are sorted by expert, `counts[e]` for expert e; (M, C).

        The rows of experts that other ranks have become zeros.
        """
        outputs = rows.new_zeros(rows.shape)
        first = sum(counts[: self.first])
        for expert, count in enumerate(counts[self.first : self.first + self.count]):
            if count:
                outputs[first : first + count] = self._one(expert, rows[first : first + count])
                first += count
        return outputs

    def each(self, rows: Tensor, chosen: Tensor) -> Tensor:
        """Send row i of `rows` (M, C) through expert `chosen[i]`; `chosen` (M,), result (M, C).

        Gathering copies the experts' weights, but the host need not wait for the GPU to know which experts were chosen.
        For GPUs and unpacked weights only.
        """
        assert isinstance(self.inner, Tensor) and isinstance(self.down_proj, Tensor)
        hidden = torch.bmm(self.inner[chosen], rows[:, :, None]).squeeze(-1)  # (M, 2I), or (M, I) without a gate
        if self.gate_up_proj_bias is not None:
            hidden = hidden + self.gate_up_proj_bias[chosen]
        out = torch.bmm(self.down_proj[chosen], self._combine(hidden)[:, :, None]).squeeze(-1)  # (M, C)
        return out if self.down_proj_bias is None else out + self.down_proj_bias[chosen]

    def _one(self, expert: int, x: Tensor) -> Tensor:
        up_bias = None if self.gate_up_proj_bias is None else self.gate_up_proj_bias[expert]
        down_bias = None if self.down_proj_bias is None else self.down_proj_bias[expert]
        return F.linear(self._combine(F.linear(x, self.inner[expert], up_bias)), self.down_proj[expert], down_bias)

    def _combine(self, hidden: Tensor) -> Tensor:
        """Combine gate and up projections: (M, 2I) -> (M, I); without a gate, (M, I) -> (M, I)."""
        if not self.gated:
            return self.activation(hidden)
        gate, up = hidden.chunk(2, dim=-1)
        if self.limit is not None:
            gate, up = clamped(gate, up, self.limit)
        if self.glu is None:
            return self.activation(gate) * up
        gate, up = clamped(gate, up, self.glu.limit)
        return (up + 1) * gate * torch.sigmoid(self.glu.alpha * gate)


class MixtureOfExperts(nn.Module):
    """`sum of weight_e * expert_e(x)` over the chosen experts, plus the shared expert where there is one."""

    def __init__(self, config: ModelConfig, experts: ExpertsConfig) -> None:
        super().__init__()
        self.config = experts
        self.gate = Router(config.hidden_size, experts, config.norm_eps, config.vocab_size)
        self.experts = ExpertWeights(config, experts)
        self.shared_expert: FeedForward | PlainFeedForward | None = None
        self.shared_expert_gate = None
        self.sum_over_ranks: nn.Module = nn.Identity()
        if experts.latent_size is not None:
            self.latent_in = nn.Linear(config.hidden_size, experts.latent_size, bias=config.mlp_bias)
            self.latent_out = nn.Linear(experts.latent_size, config.hidden_size, bias=config.mlp_bias)
        if experts.shared_size:
            sizes = config.hidden_size, experts.shared_size
            if experts.gated:
                self.shared_expert = FeedForward(*sizes, config.activation, bias=config.mlp_bias, limit=experts.limit)
            else:
                self.shared_expert = PlainFeedForward(*sizes, config.activation, bias=config.mlp_bias)
        if experts.shared_gate:
            self.shared_expert_gate = nn.Linear(config.hidden_size, 1, bias=False)

    @property
    def dtype(self) -> torch.dtype:
        """The data type of activations; the router's weights may have another."""
        return self.experts.dtype

    def forward(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C); `ids` (B, T) are the tokens, where a table has the experts of each."""
        tokens = x.flatten(0, 1)  # (N, C)
        chosen, weights = self.gate(tokens, ids)  # (N, k)
        weights = weights.to(x.dtype)
        routed = self._routed(self.experts_input(tokens), chosen, weights)
        if self.config.latent_size is not None:
            routed = self.latent_out(routed)
        routed = routed.view_as(x)
        if self.shared_expert is None:
            return routed
        shared: Tensor = self.shared_expert(x)
        if self.shared_expert_gate is not None:
            shared = torch.sigmoid(self.shared_expert_gate(x)) * shared
        if self.config.shared_scale != 1:
            shared = shared * self.config.shared_scale
        return routed + shared

    def experts_input(self, x: Tensor) -> Tensor:
        """What the experts read where the mixture reads `x`, any shape (..., C): `x`, or its latent."""
        if self.config.latent_size is None:
            return x
        latent: Tensor = self.latent_in(x)
        return latent

    def shared_input(self, x: Tensor) -> Tensor:
        """What the shared expert reads where the mixture reads `x`, any shape (..., C)."""
        return x

    def _routed(self, tokens: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum of the outputs of the chosen experts, (N, C)."""
        pairs = chosen.flatten()  # (N * k,): one for each token and expert
        by_expert = pairs.argsort(stable=True)
        few = len(pairs) <= self.config.count and self.config.held is None
        on_device = tokens.is_cuda and few and not self.experts.packed
        order = torch.arange(len(pairs), device=tokens.device) if on_device else by_expert
        rows = tokens[order // self.config.chosen]  # (N * k, C)
        factors = weights.flatten()[order, None]
        if self.config.scales_input:
            rows = rows * factors
        if on_device:
            # Few rows: gathering weights costs less than waiting for the device to know the chosen experts.
            outputs = self.experts.each(rows, pairs)
        else:
            outputs = self.experts(rows, torch.bincount(pairs, minlength=self.config.count).tolist())
        if not self.config.scales_input:
            outputs = outputs * factors
        by_token = torch.empty_like(outputs)
        by_token[order] = outputs
        routed: Tensor = self.sum_over_ranks(by_token.view(*chosen.shape, -1).sum(1))
        return routed
