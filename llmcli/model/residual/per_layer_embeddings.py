"""Per-layer embeddings (Gemma 3n and 4): each token has a small vector for every layer, beside its embedding.

A layer multiplies its vector by a gate computed from the residual stream, and adds the projected product to the stream.
A large table thus costs the lookup of one row per token. Formulas: transformers 5.24, models/gemma4.

Dimension letters: B batch, T new tokens, C hidden size, L layers, P size of a layer's vector.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmcli.model.config import ModelConfig
from llmcli.model.feed_forward import make_activation
from llmcli.model.norm import make_norm
from llmcli.model.residual_config import PerLayerConfig


class PerLayerEmbeddings(nn.Module):
    """The vectors of all layers: `(norm(project(h) / sqrt(C)) + sqrt(P) table[id]) / sqrt(2)`, `h` the embedding."""

    embed_tokens: nn.Module
    """The table: (tokens, L P). A row holds the vectors of all layers."""

    def __init__(self, config: ModelConfig, per_layer: PerLayerConfig) -> None:
        super().__init__()
        layers, hidden, self.size = config.num_layers, config.hidden_size, per_layer.size
        self.tokens = per_layer.vocab_size
        self.table_scale, self.projection_scale = self.size**0.5, hidden**-0.5
        self.embed_tokens = nn.Embedding(self.tokens, layers * self.size)
        self.projection = nn.Linear(hidden, layers * self.size, bias=False)
        self.norm = make_norm(self.size, config.norm_eps, config.norm)

    def forward(self, ids: Tensor, embedded: Tensor) -> Tensor:
        """The vectors (B, T, L, P) of tokens `ids` (B, T), whose scaled embeddings are `embedded` (B, T, C)."""
        # Tokens behind the table's end, which stand for images and sounds, have the vectors of token 0.
        rows: Tensor = self.embed_tokens(torch.where(ids < self.tokens, ids, 0))  # (B, T, L P)
        # Rounded to the type of the weights first, as in training.
        rows = rows * torch.tensor(self.table_scale, dtype=rows.dtype).item()
        projected: Tensor = self.projection(embedded) * self.projection_scale
        by_layer = (*ids.shape, -1, self.size)
        found: Tensor = (self.norm(projected.view(by_layer)) + rows.view(by_layer)) * 2**-0.5
        return found


class PerLayerInput(nn.Module):
    """What a layer adds for its vector: `norm(down(act(gate(x)) * vector))`."""

    def __init__(self, config: ModelConfig, per_layer: PerLayerConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.hidden_size, per_layer.size, bias=False)
        self.projection = nn.Linear(per_layer.size, config.hidden_size, bias=False)
        self.norm = make_norm(config.hidden_size, config.norm_eps, config.norm)
        self.activation = make_activation(config.activation)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """`x` (B, T, C) and the layer's vectors (B, T, P) -> (B, T, C)."""
        added: Tensor = self.norm(self.projection(self.activation(self.gate(x)) * vector))
        return added
