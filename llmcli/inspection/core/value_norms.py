"""Norms of value vectors after the output projection, ||v_j W_O||, for every head and token.

Dimension letters: L blocks, S keys, H query heads, K kv heads, V size of a value head, C hidden size, n tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmcli.inspection.core.hooks import AttentionCall, attention_of, blocks, head_count
from llmcli.model import Transformer
from llmcli.model.attention.latent_attention import LatentAttention
from llmcli.model.block import OutputNormBlock
from llmcli.model.norm import CenteredRMSNorm, LayerNorm


class ValueLengths:
    """The value norms of all tokens read so far, each computed once.

    If an output norm follows the projection, the normed vector is measured, without the norm's scale, which is the
    same for all tokens of a row. So it is with a norm before the projection. A gate, which depends on the token that
    attends, is left out.
    """

    def __init__(self, model: Transformer) -> None:
        self._model = model
        config = model.config
        most = max(config.heads_of(layer).count for layer in config.layers)
        self._lengths = torch.zeros(config.num_layers, most, 256, device=model.device)  # (L, H, capacity)
        self._known = [range(0)] * config.num_layers  # positions
        self._grams: list[Tensor | None] = [None] * config.num_layers

    def note(self, call: AttentionCall, end: int) -> None:
        """Compute the norms of the new keys of `call`, the last of which is at position `end - 1`."""
        first, known = end - call.seen, self._known[call.block]
        self._reserve(end)
        # Positions from the first new token on may have belonged to another text before.
        until = min(known.stop, end - call.new)
        start = until if known.start <= first < until else first
        values = self._values(call, start - first)
        lengths = _lengths(values, self._gram(call.block)).flatten(0, 1)
        self._lengths[call.block, : len(lengths), start:end] = lengths
        self._known[call.block] = range(min(first, start), end)

    def of(self, block: int, first: int, stop: int) -> Tensor:
        """Norms (H, S) of the keys from position `first` to `stop`, which must have been noted."""
        return self._lengths[block, : head_count(self._model.config, block), first:stop]

    def _values(self, call: AttentionCall, start: int) -> Tensor:
        """Values (K, n, V) of the keys from index `start` on."""
        if isinstance(call.attention, LatentAttention):
            return (call.v[0, :, start:] @ call.attention.value_weight.transpose(1, 2)).float()
        return call.v[0, :, start:].float()

    def _reserve(self, end: int) -> None:
        while self._lengths.shape[2] < end:
            self._lengths = torch.cat((self._lengths, torch.zeros_like(self._lengths)), dim=2)

    def _gram(self, block: int) -> Tensor:
        """W_O'W_O of each head, (K, H/K, V, V): v'(W_O'W_O)v is the squared norm of W_O v."""
        known = self._grams[block]
        if known is not None:
            return known
        config = self._model.config
        shape = config.heads_of(config.layers[block])
        weight = attention_of(self._model, block).o_proj.weight.float()  # (C, H * V)
        sub_norm = getattr(attention_of(self._model, block), "sub_norm", None)
        if sub_norm is not None:
            weight = weight * sub_norm.weight.float()
        weight = _through_output_norm(self._model, block, weight)
        by_head = weight.view(weight.shape[0], shape.count, -1).permute(1, 0, 2)  # (H, C, V)
        gram = by_head.transpose(1, 2) @ by_head
        kv_heads = shape.count if config.latent is not None else shape.kv_count
        self._grams[block] = gram = gram.view(kv_heads, -1, *gram.shape[1:])
        return gram


def _lengths(values: Tensor, gram: Tensor) -> Tensor:
    """Norms (..., K, H/K, n) from `values` (..., K, n, V) and `gram` (..., K, H/K, V, V)."""
    values = values.unsqueeze(-3)
    return ((values @ gram) * values).sum(-1).clamp(min=0).sqrt()


def _through_output_norm(model: Transformer, block: int, weight: Tensor) -> Tensor:
    """Apply a block's output norm, without its scale, to a matrix (C, ...) that writes into the residual stream."""
    module = blocks(model)[block]
    if not isinstance(module, OutputNormBlock):
        return weight
    norm = module.attention_output_norm
    if isinstance(norm, LayerNorm):
        weight = weight - weight.mean(0)
    factor: Tensor | None = getattr(norm, "weight", None)
    if factor is None:
        return weight
    plus: float = 1.0 if isinstance(norm, CenteredRMSNorm) else getattr(norm, "plus_one", 0.0)
    return weight * (factor.float() + plus)[:, None]
