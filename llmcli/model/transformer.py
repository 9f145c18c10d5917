"""The whole model, from token ids to logits.

Dimension letters: B batch, T new tokens, C hidden size, V vocabulary.
Attribute names are those of Hugging Face checkpoints, so that tensors of the common families need no renaming.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmcli.model.attention import Attention
from llmcli.model.cache import KVCache
from llmcli.model.config import LayerConfig, ModelConfig
from llmcli.model.feed_forward import FeedForward
from llmcli.model.norm import RMSNorm
from llmcli.model.rope import Rope


class Block(nn.Module):
    """One layer: attention and feed-forward, each adding to the residual stream."""

    def __init__(self, config: ModelConfig, layer: LayerConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.self_attn = Attention(config, layer, index)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None, cache: KVCache | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.self_attn(self.input_layernorm(x), rotation, cache)
        x = x + self.mlp(self.post_attention_layernorm(x))
        return x  # noqa: RET504 (the two lines a reader looks for)


class Transformer(nn.Module):
    """A decoder-only language model (Vaswani et al. 2017; Touvron et al. 2023, arXiv:2302.13971)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer, index) for index, layer in enumerate(config.layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        # Layers that agree on their rotation share its tables.
        distinct = list(dict.fromkeys(layer.rope for layer in config.layers if layer.rope is not None))
        self.ropes = nn.ModuleList(Rope(rope) for rope in distinct)
        self._rope_of_layer = [None if layer.rope is None else distinct.index(layer.rope) for layer in config.layers]

    @property
    def dtype(self) -> torch.dtype:
        """The type activations and the KV cache have."""
        return self.embed_tokens.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed_tokens.weight.device

    def new_cache(self, *, batch: int = 1, capacity: int = 256) -> KVCache:
        """An empty KV cache that fits this model, its device and its dtype."""
        return KVCache(self.config, batch=batch, capacity=capacity, dtype=self.dtype, device=self.device)

    def forward(self, ids: Tensor, cache: KVCache | None = None, *, only_last: bool = False) -> Tensor:
        """Logits of the token that follows each of `ids`.

        `ids` (B, T) continue what `cache` holds, or start from nothing without one. Returns (B, T, V), or (B, 1, V) for
        the last token alone, which is all that generation needs of a long prompt.
        """
        start, new = (cache.length if cache is not None else 0), ids.shape[1]
        if cache is not None:
            cache.reserve(start + new)
        positions = torch.arange(start, start + new, device=ids.device)
        rotations = [rope(positions, self.dtype) for rope in self.ropes]
        x = self.embed_tokens(ids)  # (B, T, C)
        for block, rope in zip(self.layers, self._rope_of_layer, strict=True):
            x = block(x, None if rope is None else rotations[rope], cache)
        if cache is not None:
            cache.advance(new)
        if only_last:
            x = x[:, -1:]
        logits: Tensor = self.lm_head(self.norm(x))  # (B, T, V)
        return logits
