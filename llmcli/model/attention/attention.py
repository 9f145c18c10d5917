"""Attention: each token computes a weighted mixture of the values of the tokens up to its position.

Dimension letters: B batch, T new tokens, S keys, H query heads, K kv heads, D head size, V size of a value,
C hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.model.attention.block_index import BlockIndex
from llmcli.model.attention.compressed_blocks import BlockPositions
from llmcli.model.attention.rope import rotate
from llmcli.model.attention.scaled_dot_product import SoftmaxAttention, alibi_slopes, attend_chosen
from llmcli.model.cache.kv_cache import LayerCache
from llmcli.model.config import LayerConfig, ModelConfig, QueryScaling
from llmcli.model.norm import RMSNorm, WeightlessRMSNorm, make_norm, root_mean_square


@dataclass(frozen=True)
class Positions:
    """Positions, rotations and attention mask of the new tokens, for one kind of layer."""

    positions: Tensor
    """(T,)"""
    rotation: tuple[Tensor, Tensor] | None
    """Cosines and sines of the positions; None: no rotary positions."""
    mask: Tensor | None
    """The keys each token sees, as a mask (T, S); None: causal."""
    lent: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Keys and values that layers of this pass lend to later ones, by layer; one dictionary for all kinds of layers."""
    chosen: dict[int, Tensor | None] = field(default_factory=dict)
    """The keys that indexes of this pass chose, (B, T, S), by layer; None: all in `mask`. One dictionary, like `lent`.
    """
    per_layer: Tensor | None = None
    """The tokens' per-layer embeddings, (B, T, L, P) for L layers."""
    ids: Tensor | None = None
    """The new tokens, (B, T): n-gram embeddings read them, and some experts are chosen by them."""
    blocks: BlockPositions | None = None
    """The compressed blocks of this kind of layer; None: it has none."""
    starts: tuple[Tensor, Tensor] | None = None
    """Cosines and sines of the first positions of whole blocks of keys, for an index of blocks."""

    def of_last(self) -> Positions:
        """The same for the last of the new tokens alone."""
        return replace(
            self,
            positions=self.positions[-1:],
            rotation=None if self.rotation is None else (self.rotation[0][-1:], self.rotation[1][-1:]),
            mask=None if self.mask is None else self.mask[-1:],
            per_layer=None if self.per_layer is None else self.per_layer[:, -1:],
        )


class Attention(nn.Module):
    """Grouped-query attention: H query heads share K key and value heads (Ainslie et al. 2023, arXiv:2305.13245)."""

    def __init__(self, config: ModelConfig, layer: LayerConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.heads = heads = config.heads_of(layer)
        self.clip = config.qkv_clip
        self.query_scaling = layer.query_scaling
        # Norms behind the rotation; without it, weightless ones are left out.
        self.rotated_norm = config.qk_norm == "rotated_head" or (config.qk_norm == "rotated" and layer.rope is not None)
        self.kv_from, self.key_is_value = layer.kv_from, layer.key_is_value
        self.lends = any(other.kv_from == index for other in config.layers)
        self.value_norm_eps = config.norm_eps if config.value_norm else None
        self.value_scale = config.value_scale
        hidden, bias = config.hidden_size, config.qkv_bias
        queries, keys, values = heads.rows
        self.q_proj = nn.Linear(hidden, queries, bias=bias)
        if self.kv_from is None:
            self.k_proj = nn.Linear(hidden, keys, bias=bias)
        if self.kv_from is None and not self.key_is_value:
            self.v_proj = nn.Linear(hidden, values, bias=bias)
        self.o_proj = nn.Linear(heads.count * heads.value_dim, hidden, bias=config.o_bias)
        self.whole_norm = config.qk_norm == "whole"
        self.q_norm = self._norm(config, heads.count)
        if self.kv_from is None:
            self.k_norm = self._norm(config, heads.kv_count)
        scale = heads.key_dim**-0.5 if config.attention_scale is None else config.attention_scale
        same = heads.key_dim == heads.value_dim
        slopes = None if config.alibi is None else alibi_slopes(heads.count)
        self.attend = SoftmaxAttention(
            scale,
            softcap=config.attention_softcap,
            fused=same,
            slopes=slopes,
            biases_as_scores=config.alibi is not None and config.alibi.as_score,
        )
        self.gate_proj = None
        if config.attention_gate is not None:
            self.gate_per_head = config.attention_gate.per_head
            self.gate_activation = torch.sigmoid if config.attention_gate.activation == "sigmoid" else F.softplus
            gates = heads.count if self.gate_per_head else heads.count * heads.value_dim
            self.gate_proj = nn.Linear(hidden, gates, bias=False)
        self.sub_norm = RMSNorm(heads.count * heads.value_dim, config.norm_eps) if config.sub_norms else None
        self.sinks = nn.Parameter(torch.empty(heads.count)) if layer.sinks else None
        self.indexer = None if layer.block_index is None else BlockIndex(config, layer.block_index)
        if self.indexer is not None and (self.lends or layer.kv_from is not None or layer.sinks or layer.is_windowed):
            raise ValueError("an index of blocks chooses from all keys of its layer, which has no sinks")

    def forward(self, x: Tensor, place: Positions, cache: LayerCache | None) -> Tensor:
        """Attend from the new tokens `x` (B, T, C) to themselves and to the tokens in `cache`; returns (B, T, C)."""
        q = self._placed(self.q_proj(x), self.heads.count, self.q_norm, place)  # (B, H, T, D)
        if self.query_scaling is not None:
            q = (q * query_factors(self.query_scaling, place.positions)).to(q.dtype)
        k, v = self._keys_and_values(x, place, cache)  # (B, K, S, D) and (B, K, S, V)
        if self.indexer is None:
            mixed = self.attend(q, k, v, place.mask, self.sinks)  # (B, H, T, V)
        else:
            v, index_keys = self.indexer.apart(v)
            chosen = self.indexer.choose(x, index_keys, place.rotation, place.starts)
            mixed = attend_chosen(self.attend, q, k, v, place.mask, chosen)
        mixed = mixed.transpose(1, 2)  # (B, T, H, V)
        if self.gate_proj is not None:
            mixed = mixed * self._gates(x)
        mixed = mixed.flatten(2)
        if self.sub_norm is not None:
            mixed = self.sub_norm(mixed)
        output: Tensor = self.o_proj(mixed)
        return output

    def _gates(self, x: Tensor) -> Tensor:
        """Factors on the values that the heads found for the tokens `x` (B, T, C): (B, T, H, V) or (B, T, H, 1)."""
        assert self.gate_proj is not None
        gates: Tensor = self.gate_activation(self.gate_proj(x).float()).to(x.dtype)
        return gates.view(*x.shape[:2], self.heads.count, -1)

    def _keys_and_values(self, x: Tensor, place: Positions, cache: LayerCache | None) -> tuple[Tensor, Tensor]:
        """All keys (B, K, S, D) and values (B, K, S, V) that the new tokens `x` (B, T, C) see.

        An index of blocks has its keys beside the values.
        """
        if self.kv_from is not None:
            return place.lent[self.kv_from]
        projected = self.k_proj(x)
        k = self._placed(projected, self.heads.kv_count, self.k_norm, place)  # (B, K, T, D)
        v = self._split(projected if self.key_is_value else self.v_proj(x), self.heads.kv_count)  # (B, K, T, V)
        if self.value_norm_eps is not None:
            v = root_mean_square(v, self.value_norm_eps).to(v.dtype)
        if self.value_scale != 1:
            v = v * self.value_scale
        if self.indexer is not None:
            v = self.indexer.beside(x, v)
        if cache is not None:
            k, v = cache.append(self.index, k, v)
        if self.lends:
            place.lent[self.index] = k, v
        return k, v

    def _placed(self, x: Tensor, heads: int, norm: nn.Module, place: Positions) -> Tensor:
        """Normalize and rotate queries or keys, in the order of the model: (B, T, heads * D) -> (B, heads, T, D)."""
        x = self._split(x, heads, None if self.rotated_norm else norm)
        if place.rotation is not None:
            x = rotate(x, *place.rotation)
        if self.rotated_norm:
            x = norm(x)
        return x

    def _norm(self, config: ModelConfig, heads: int) -> nn.Module:
        """The norm of queries or keys with `heads` heads."""
        if config.qk_norm in ("head", "rotated_head"):
            return make_norm(self.heads.key_dim, config.norm_eps, config.norm)
        if config.qk_norm == "weightless" or self.rotated_norm:
            return WeightlessRMSNorm(config.norm_eps)
        if config.qk_norm == "whole":
            return make_norm(heads * self.heads.key_dim, config.norm_eps, config.norm)
        if config.qk_norm == "each_head":
            return make_norm((heads, self.heads.key_dim), config.norm_eps, replace(config.norm, bias=False))
        return nn.Identity()

    def _split(self, x: Tensor, heads: int, norm: nn.Module | None = None) -> Tensor:
        """Normalize and split into heads: (B, T, heads * D) -> (B, heads, T, D)."""
        if norm is not None and self.whole_norm:
            x = norm(x)
        if self.clip is not None:
            x = x.clamp(-self.clip, self.clip)
        x = x.view(*x.shape[:2], heads, -1)  # (B, T, heads, D)
        if norm is not None and not self.whole_norm:
            x = norm(x)
        return x.transpose(1, 2)


def query_factors(scaling: QueryScaling, positions: Tensor) -> Tensor:
    """The `QueryScaling` factor at each of the `positions` (T,): float32, (T, 1)."""
    steps = ((positions + scaling.offset) // scaling.interval).float()
    return (1 + scaling.beta * torch.log1p(steps))[:, None]
