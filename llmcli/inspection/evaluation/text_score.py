"""The scores of a text, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from llmcli.engine import Candidate


@dataclass(frozen=True)
class TokenScore:
    """Log-probability, rank, entropy and candidates of one token; None or empty for a first token."""

    index: int
    id: int
    text: str
    logprob: float | None = None
    """In nats."""
    rank: int | None = None
    """1 if no token was more probable."""
    entropy: float | None = None
    """Entropy of the whole distribution, in nats."""
    top: tuple[Candidate, ...] = ()
    """The most probable tokens at this position."""


@dataclass(frozen=True)
class TextScore:
    """The scores of a text, token by token and in total."""

    tokens: tuple[TokenScore, ...]
    perplexity: float
    """exp of the mean negative log-probability of the scored tokens; infinite if that overflows a float."""
    bits_per_byte: float
    """Total surprisal in bits per byte of the scored tokens: comparable between tokenizers."""
    windows: int
    """Number of overlapping windows the text was read in; 1 if it fits the context."""
    path: str
    """The implementation that ran."""
