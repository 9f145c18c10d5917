"""Attention whose heads all read one row for each token, and rows of compressed blocks (DeepSeek-V4).

A row is both key and value, and its last values are rotated. What a head finds is a mixture of rotated rows, so it is
turned back by the position of the query: then each row counts by its distance. Formulas: transformers 5.24,
models/deepseek_v4.

Dimension letters: B batch, T new tokens, S keys, M blocks, H heads, C hidden size, Q size of the compressed query,
D size of a row, G groups of heads, P values of a projected group.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmcli.model.attention.attention import Positions
from llmcli.model.attention.compressed_blocks import CompressedBlocks
from llmcli.model.attention.rope import rotate_last
from llmcli.model.attention.scaled_dot_product import SoftmaxAttention
from llmcli.model.cache.kv_cache import LayerCache
from llmcli.model.config import LayerConfig, ModelConfig
from llmcli.model.norm import WeightlessRMSNorm, make_norm
from llmcli.model.shared_row_config import SharedRowConfig


class SharedRowAttention(nn.Module):
    """Attention to the rows in a window and to those of compressed blocks, with sinks and a grouped projection."""

    def __init__(self, config: ModelConfig, shared: SharedRowConfig, layer: LayerConfig, index: int) -> None:
        super().__init__()
        self.index, self.shared, self.heads = index, shared, config.num_heads
        hidden, size, rank = config.hidden_size, config.head_dim, shared.query_rank
        self.q_a_proj = nn.Linear(hidden, rank, bias=False)
        self.q_a_norm = make_norm(rank, config.norm_eps, config.norm)
        self.q_b_proj = nn.Linear(rank, self.heads * size, bias=False)
        self.q_b_norm = WeightlessRMSNorm(config.norm_eps)
        self.kv_proj = nn.Linear(hidden, size, bias=False)
        self.kv_norm = make_norm(size, config.norm_eps, config.norm)
        self.o_a_proj = GroupedLinear(self.heads * size // shared.groups, shared.group_rank, shared.groups)
        self.o_b_proj = nn.Linear(shared.groups * shared.group_rank, hidden, bias=False)
        self.attend = SoftmaxAttention(size**-0.5)
        self.sinks = nn.Parameter(torch.empty(self.heads)) if layer.sinks else None
        self.compressed = None
        if layer.blocks is not None:
            self.compressed = CompressedBlocks(config, layer.blocks, layer.index, rank, index)

    def forward(self, x: Tensor, place: Positions, cache: LayerCache | None) -> Tensor:
        """Attend from the new tokens `x` (B, T, C) to themselves and to the tokens in `cache`; returns (B, T, C)."""
        assert place.rotation is not None
        cos, sin = place.rotation
        query = self.q_a_norm(self.q_a_proj(x))  # (B, T, Q)
        q = self.q_b_norm(self.q_b_proj(query).view(*x.shape[:2], self.heads, -1))
        q = rotate_last(q.transpose(1, 2), cos, sin)  # (B, H, T, D)
        rows = rotate_last(self.kv_norm(self.kv_proj(x)).unsqueeze(1), cos, sin)  # (B, 1, T, D)
        if cache is not None:
            rows, _ = cache.append(self.index, rows, rows[..., :0])  # (B, 1, S, D)
        mask = place.mask
        if self.compressed is not None:
            assert place.blocks is not None
            blocks, chosen = self.compressed(x, query, place.blocks, place.rotation, cache)
            mask = _joined_masks(mask, chosen, x.shape[1], rows.shape[2])
            rows = torch.cat((rows, blocks), dim=2)  # (B, 1, S + M, D)
        mixed = rotate_last(self._attend(q, rows, mask), cos, -sin)  # (B, H, T, D)
        grouped = mixed.transpose(1, 2).reshape(*x.shape[:2], self.shared.groups, -1)  # (B, T, G, H / G D)
        output: Tensor = self.o_b_proj(self.o_a_proj(grouped).flatten(2))
        return output

    def _attend(self, q: Tensor, rows: Tensor, mask: Tensor | None) -> Tensor:
        """Mix the `rows` that `mask` (T, S) shows to all texts, or (B, T, S) to each: (B, H, T, D)."""
        if mask is None or mask.dim() == 2:
            mixed: Tensor = self.attend(q, rows, rows, mask, self.sinks)
            return mixed
        texts = (slice(text, text + 1) for text in range(len(q)))
        return torch.cat([self.attend(q[one], rows[one], rows[one], mask[one][0], self.sinks) for one in texts])


class GroupedLinear(nn.Module):
    """A matrix for each of several groups of inputs, one below the other in `weight` (G P, inputs of a group)."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        """`inputs` and `outputs` are those of a group."""
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(groups * outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, G, inputs) -> (B, T, G, P)."""
        matrices = self.weight.view(self.groups, -1, x.shape[-1])  # (G, P, inputs)
        return torch.einsum("btgi,gpi->btgp", x, matrices)


def _joined_masks(window: Tensor | None, blocks: Tensor, new: int, seen: int) -> Tensor:
    """Both masks side by side, (T, S + M) or (B, T, S + M); the window's (T, S) is causal if None."""
    if window is None:
        window = torch.ones(new, seen, dtype=torch.bool, device=blocks.device).tril(seen - new)
    return torch.cat((window.expand(*blocks.shape[:-1], seen), blocks), dim=-1)
