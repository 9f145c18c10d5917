"""Plain values that every view shares."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llmcli.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Token:
    """A token of the vocabulary: its number, its text, and the bytes it stands for, which need not be whole text."""

    id: int
    text: str
    bytes: bytes


@dataclass(frozen=True)
class TokenProb:
    """A token and a probability, 0 to 1, that a view says more about."""

    id: int
    text: str
    bytes: bytes
    prob: float


def token(tokenizer: Tokenizer, token_id: int) -> Token:
    """The token of that id."""
    return Token(token_id, tokenizer.token_text(token_id), tokenizer.token_bytes(token_id))


def tokens(tokenizer: Tokenizer, ids: Iterable[int]) -> tuple[Token, ...]:
    """The tokens of those ids."""
    return tuple(token(tokenizer, token_id) for token_id in ids)


def token_prob(tokenizer: Tokenizer, token_id: int, prob: float) -> TokenProb:
    """The token of that id, with a probability."""
    return TokenProb(token_id, tokenizer.token_text(token_id), tokenizer.token_bytes(token_id), prob)
