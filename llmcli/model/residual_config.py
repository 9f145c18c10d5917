"""What models have besides one residual stream that attention and feed-forward add to, as data; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PerLayerConfig:
    """Per-layer embeddings: a table with a small vector of each token for every layer (Gemma 3n and 4)."""

    vocab_size: int
    """Tokens in the table; later ones have the vectors of token 0."""
    size: int
    """Values of a layer's vector."""


@dataclass(frozen=True)
class AltupConfig:
    """Several residual streams, of which each block computes on the first (AltUp, arXiv:2301.13310; Gemma 3n)."""

    streams: int
    laurel_rank: int
    """Rank of the path beside attention (LAuReL, arXiv:2411.07501)."""
    scaled: bool = True
    """Multiply the first stream by a learned vector where the gate of the per-layer embeddings reads it."""


@dataclass(frozen=True)
class HyperConfig:
    """Several residual streams, mixed by hyper-connections (arXiv:2512.24880; DeepSeek-V4)."""

    streams: int
    iterations: int
    """Rounds of the normalization that makes rows and columns of the mixing matrices sum to 1."""
    eps: float


@dataclass(frozen=True)
class GatedResidualConfig:
    """Several residual streams, which attention and feed-forward read through gates and write to (Qwen4-exp)."""

    streams: int
    rank: int
    """Values between the two projections that make the gates."""


@dataclass(frozen=True)
class NgramConfig:
    """Embeddings of the last few tokens together, looked up by hashes, for one layer (Qwen4-exp).

    An n-gram is a token with the n - 1 before it. Each of its hashes has a part of the table.
    """

    size: int
    """Values of the rows of all hashes together."""
    multipliers: tuple[int, ...]
    """Odd numbers by which the hashes multiply the token and those before it; as many as the longest n-gram has."""
    parts: tuple[int, ...]
    """Rows that each hash chooses from: those of n-grams of 2 tokens, then those of 3, and so on."""
    rows: int
    """Rows of the table; those behind all parts are not used."""
    boundary: int
    """The token that ends a text: n-grams do not reach across it, and it stands for all tokens beyond."""
    conv_width: int
    """Inputs that the convolution mixes; they are as many tokens apart as the longest n-gram has."""

    @property
    def longest(self) -> int:
        """Tokens of the longest n-gram."""
        return len(self.multipliers)

    @property
    def conv_seen(self) -> int:
        """Tokens before a token that the convolution sees."""
        return (self.conv_width - 1) * self.longest
