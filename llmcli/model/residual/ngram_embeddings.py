"""Embeddings of n-grams (Qwen4-exp): a layer adds to the residual streams what it knows of the last few tokens.

An n-gram is far too rare for a row in a table that no other has, so several hashes each choose a row of their part, and
n-grams share rows. The rows together make a value, and for each stream a key; the value is added as far as the key fits
the stream, and once more after a convolution over earlier tokens. Formulas: transformers 5.24, models/qwen4_exp.

Dimension letters: B batch, T new tokens, N tokens of the longest n-gram, H hashes, E values of all their rows, C hidden
size, S streams.
"""

from __future__ import annotations

import math
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.model.cache.state import State, StateCache
from llmcli.model.config import ModelConfig
from llmcli.model.norm import make_norm
from llmcli.model.recurrent.causal_conv import CausalConv
from llmcli.model.residual_config import NgramConfig

# The least magnitude of a gate before its root is taken.
_LEAST = 1e-6


class NgramEmbeddings(nn.Module):
    """The table, and what of a token's rows each stream gets: `v + conv(norm(v))` with `v = sigmoid(gate) * value`.

    The gate of a stream x is `root(norm(key) . norm(x) / sqrt(C))`, and `root(g) = sign(g) sqrt(|g|)`.
    """

    table: nn.Module
    """(rows, E / H)"""
    parts: Tensor
    """(H,): rows that each hash chooses from."""
    starts: Tensor
    """(H,): the first of them."""

    def __init__(self, config: ModelConfig, ngram: NgramConfig, index: int) -> None:
        super().__init__()
        hidden, streams = config.hidden_size, config.streams
        self.ngram, self.streams = ngram, streams
        # The places of layers come first.
        self.place = config.num_layers + index
        self.table = nn.Embedding(ngram.rows, ngram.size // len(ngram.parts))
        self.key_proj = nn.Linear(ngram.size, streams * hidden, bias=False)
        self.value_proj = nn.Linear(ngram.size, hidden, bias=False)
        self.key_norm, self.query_norm, self.conv_norm = (
            make_norm((streams, hidden), config.norm_eps, config.norm) for _ in range(3)
        )
        self.conv = CausalConv(
            streams * hidden, ngram.conv_width, bias=False, activation=F.silu, dilation=ngram.longest
        )
        # Computed from the configuration, so they are neither in the checkpoint nor ever on the `meta` device.
        starts = [0, *accumulate(ngram.parts[:-1])]
        self.register_buffer("parts", torch.tensor(ngram.parts, device="cpu"), persistent=False)
        self.register_buffer("starts", torch.tensor(starts, device="cpu"), persistent=False)

    def forward(self, x: Tensor, ids: Tensor, cache: StateCache | None) -> Tensor:
        """What is added to the streams `x` (B, T, S C) of the new tokens `ids` (B, T): (B, T, S C)."""
        before = None if cache is None else cache.state(self.place)
        earlier = ids.new_full((len(ids), self.ngram.longest - 1), self.ngram.boundary)
        if before is not None:
            assert before.ids is not None
            earlier = before.ids
        history = torch.cat((earlier, ids), dim=1)  # (B, N - 1 + T)
        rows: Tensor = self.table(self.rows(history)).flatten(-2)  # (B, T, E)
        by_stream = (*x.shape[:-1], self.streams, -1)
        keys: Tensor = self.key_norm(self.key_proj(rows).view(by_stream))  # (B, T, S, C)
        fits = (keys * self.query_norm(x.view(by_stream))).sum(-1, keepdim=True)  # (B, T, S, 1)
        gate: Tensor = fits / math.sqrt(keys.shape[-1])
        gate = gate.abs().clamp_min(_LEAST).sqrt() * gate.sign()
        value = torch.sigmoid(gate) * self.value_proj(rows).unsqueeze(-2)  # (B, T, S, C)
        mixed, tail = self.conv(self.conv_norm(value).flatten(-2), None if before is None else before.tail)
        if cache is not None:
            # A copy: a slice would keep all ids in memory.
            cache.store(self.place, State(tail, None, history[:, ids.shape[1] :].clone()))
        added: Tensor = value.flatten(-2) + mixed
        return added

    def rows(self, history: Tensor) -> Tensor:
        """The rows of the tokens behind the first N - 1 of `history` (B, N - 1 + T): (B, T, H).

        Each hash takes the remainder, by the size of its part, of the exclusive or of the products of an n-gram's
        tokens and their multipliers.
        """
        before = self.ngram.longest - 1
        hashes = len(self.ngram.parts) // before
        token = history[:, before:]
        mixed = token * self.ngram.multipliers[0]  # (B, T)
        beyond = torch.zeros_like(token, dtype=torch.bool)
        found = []
        for back in range(1, before + 1):
            token = history[:, before - back : history.shape[1] - back].masked_fill(beyond, self.ngram.boundary)
            beyond = token == self.ngram.boundary
            mixed = mixed ^ (token * self.ngram.multipliers[back])
            part = slice((back - 1) * hashes, back * hashes)
            found.append(mixed[..., None] % self.parts[part] + self.starts[part])
        return torch.cat(found, dim=-1)
