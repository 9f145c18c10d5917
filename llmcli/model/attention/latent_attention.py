"""Latent attention: one small vector per token is cached, from which the keys and values of all heads are computed.

Dimension letters: B batch, T new tokens, S keys, H heads, C hidden size, L size of the latent, R rotary size, N size of
the part of a head without positions, V size of a value head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmcli.model.attention.attention import Positions, query_factors
from llmcli.model.attention.key_index import KeyIndex
from llmcli.model.attention.rope import rotate
from llmcli.model.attention.scaled_dot_product import SoftmaxAttention, attend_chosen
from llmcli.model.cache.kv_cache import LayerCache
from llmcli.model.config import LatentConfig, LayerConfig, ModelConfig
from llmcli.model.norm import RMSNorm

# Fixed in the models that use latent attention, independent of `norm_eps`.
_EPS = 1e-6


class LatentAttention(nn.Module):
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1 and appendix C)."""

    def __init__(self, config: ModelConfig, latent: LatentConfig, layer: LayerConfig, index: int) -> None:
        super().__init__()
        self.index, self.latent, self.num_heads = index, latent, config.num_heads
        self.query_scaling = layer.query_scaling
        scale = latent.query_dim**-0.5 if config.attention_scale is None else config.attention_scale
        self.attend = SoftmaxAttention(scale)
        queries, hidden = config.num_heads * latent.query_dim, config.hidden_size
        if latent.query_rank is None:
            self.q_proj = nn.Linear(hidden, queries, bias=False)
        else:
            self.q_a_proj = nn.Linear(hidden, latent.query_rank, bias=config.qkv_bias)
            self.q_a_layernorm = RMSNorm(latent.query_rank, _EPS)
            self.q_b_proj = nn.Linear(latent.query_rank, queries, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(hidden, latent.rank + latent.rope_dim, bias=config.qkv_bias)
        self.kv_a_layernorm = RMSNorm(latent.rank, _EPS)
        self.kv_b_proj = nn.Linear(latent.rank, config.num_heads * (latent.nope_dim + latent.value_dim), bias=False)
        self.gate_proj = None
        if config.attention_gate is not None:
            if not config.attention_gate.per_head or config.attention_gate.activation != "sigmoid":
                raise ValueError("latent attention has a sigmoid gate for each head, or none")
            self.gate_proj = nn.Linear(hidden, config.num_heads, bias=False)
        self.o_proj = nn.Linear(config.num_heads * latent.value_dim, hidden, bias=config.o_bias)
        self.indexer = None if layer.index is None else KeyIndex(config, latent, layer.index)
        self.index_from = layer.index_from

    def forward(self, x: Tensor, place: Positions, cache: LayerCache | None) -> Tensor:
        """Attend from the new tokens `x` (B, T, C) to themselves and to the tokens in `cache`; returns (B, T, C)."""
        sizes = self.latent
        compressed = x if sizes.query_rank is None else self.q_a_layernorm(self.q_a_proj(x))
        q = (self.q_proj if sizes.query_rank is None else self.q_b_proj)(compressed)
        q = q.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)  # (B, H, T, N + R)
        q_nope, q_rope = q[..., : sizes.nope_dim], q[..., sizes.nope_dim :]
        row = self.kv_a_proj_with_mqa(x).unsqueeze(1)  # (B, 1, T, L + R)
        latent, k_rope = row[..., : sizes.rank], row[..., sizes.rank :]
        latent = self.kv_a_layernorm(latent)  # (B, 1, T, L)
        if place.rotation is not None:
            q_rope, k_rope = rotate(q_rope, *place.rotation), rotate(k_rope, *place.rotation)
        rows = torch.cat((latent, k_rope), dim=-1)  # (B, 1, T, L + R)
        index_keys = rows[..., :0] if self.indexer is None else self.indexer.keys(x, place.rotation)  # (B, 1, T, E)
        if cache is not None:
            rows, index_keys = cache.append(self.index, rows, index_keys)  # (B, 1, S, L + R) and (B, 1, S, E)
        # Instead of computing every key W c from its latent c, project the query into the space of latents:
        # q . (W c) = (W' q) . c. Likewise mix the latents first, then project the mixture to a value.
        q = torch.cat((q_nope @ self.key_weight, q_rope), dim=-1)  # (B, H, T, L + R)
        if self.query_scaling is not None:
            q = (q * query_factors(self.query_scaling, place.positions)).to(q.dtype)
        chosen = None if self.index_from is None else place.chosen[self.index_from]
        if self.indexer is not None:
            chosen = self.indexer.choose(x, compressed, index_keys, place.mask, place.rotation)
            place.chosen[self.index] = chosen
        mixed = attend_chosen(self.attend, q, rows, rows[..., : sizes.rank], place.mask, chosen)  # (B, H, T, L)
        values = mixed @ self.value_weight.transpose(1, 2)  # (B, H, T, V)
        values = values.transpose(1, 2)  # (B, T, H, V)
        if self.gate_proj is not None:
            values = values * torch.sigmoid(self.gate_proj(x).float()).to(x.dtype)[..., None]
        output: Tensor = self.o_proj(values.flatten(2))
        return output

    @property
    def key_weight(self) -> Tensor:
        """The projection from a latent to each head's keys, without their rotated part: (H, N, L)."""
        return self._from_latent[:, : self.latent.nope_dim]

    @property
    def value_weight(self) -> Tensor:
        """The projection from a latent to each head's values: (H, V, L)."""
        return self._from_latent[:, self.latent.nope_dim :]

    @property
    def _from_latent(self) -> Tensor:
        return self.kv_b_proj.weight.view(self.num_heads, -1, self.latent.rank)
