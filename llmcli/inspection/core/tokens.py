"""Tokens as plain values, shared by all views."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmcli.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Token:
    """A token of the vocabulary: its id, its text and its bytes, which may be part of a character."""

    id: int
    text: str
    bytes: bytes


@dataclass(frozen=True)
class TokenProb:
    """A token and its probability, 0 to 1."""

    id: int
    text: str
    bytes: bytes
    prob: float


def token(tokenizer: Tokenizer, token_id: int) -> Token:
    """The `Token` of an id."""
    return Token(token_id, tokenizer.token_text(token_id), tokenizer.token_bytes(token_id))


def tokens(tokenizer: Tokenizer, ids: Iterable[int]) -> tuple[Token, ...]:
    """The `Token` of each id."""
    return tuple(token(tokenizer, token_id) for token_id in ids)


def token_prob(tokenizer: Tokenizer, token_id: int, prob: float) -> TokenProb:
    """The `TokenProb` of an id."""
    return TokenProb(token_id, tokenizer.token_text(token_id), tokenizer.token_bytes(token_id), prob)
