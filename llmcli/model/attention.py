"""Attention: each token looks back at the ones before it and takes what it needs.

Dimension letters: B batch, T new tokens, S keys, H query heads, K kv heads, D head size, C hidden size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.model.cache import KVCache
from llmcli.model.config import LayerConfig, ModelConfig
from llmcli.model.norm import RMSNorm
from llmcli.model.rope import rotate


class Attention(nn.Module):
    """Grouped-query attention: H query heads share K key and value heads (Ainslie et al. 2023, arXiv:2305.13245)."""

    def __init__(self, config: ModelConfig, layer: LayerConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.head_dim = config.head_dim
        self.window = layer.window
        self.scale = config.head_dim**-0.5
        queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=config.qkv_bias)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=config.o_bias)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None, cache: KVCache | None) -> Tensor:
        """Attend from the new tokens `x` (B, T, C) to themselves and to everything in `cache`; returns (B, T, C).

        `rotation` holds the cosines and sines of the new tokens' positions; None leaves positions out.
        """
        q = self.q_norm(self._heads(self.q_proj(x)))  # (B, H, T, D)
        k = self.k_norm(self._heads(self.k_proj(x)))  # (B, K, T, D)
        v = self._heads(self.v_proj(x))  # (B, K, T, D)
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        if cache is not None:
            k, v = cache.append(self.index, k, v)  # (B, K, S, D)
        mixed = attend(q, k, v, scale=self.scale, window=self.window)  # (B, H, T, D)
        output: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return output

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, heads * D) -> (B, heads, T, D)."""
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int | None) -> Tensor:
    """Softmax attention of the last T positions over all S (Vaswani et al. 2017, eq. 1), causal.

    `q` (B, H, T, D); `k`, `v` (B, K, S, D), the last T of them the queries' own; returns (B, H, T, D). With a `window`,
    the query at position i sees the keys i - window + 1 .. i.
    """
    new, seen = q.shape[2], k.shape[2]
    if new == 1:
        if window is not None and seen > window:
            k, v = k[:, :, -window:], v[:, :, -window:]
        # One query sees every key, so the query heads of a group can stand in the place of T: no copy of k and v.
        grouped = q.reshape(q.shape[0], k.shape[1], -1, q.shape[3])  # (B, K, H/K, D)
        return F.scaled_dot_product_attention(grouped, k, v, scale=scale).flatten(1, 2).unsqueeze(2)
    mask = None if seen == new and (window is None or seen <= window) else causal_mask(new, seen, window, q.device)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )


def causal_mask(new: int, seen: int, window: int | None, device: torch.device) -> Tensor:
    """Which of `seen` keys each of the last `new` positions may read: boolean (T, S)."""
    query = torch.arange(seen - new, seen, device=device)[:, None]
    key = torch.arange(seen, device=device)[None, :]
    mask = key <= query
    return mask if window is None else mask & (key > query - window)
