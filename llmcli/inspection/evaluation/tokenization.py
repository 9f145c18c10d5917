"""Tokenization of a text: id, bytes and kind of every token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmcli.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextToken:
    """A token at its position in a text."""

    index: int
    id: int
    text: str
    bytes: bytes
    piece: str
    """Its spelling in the vocabulary."""
    control: bool
    """It is a control token, not text; typed text is never encoded to it."""


@dataclass(frozen=True)
class Tokenization:
    """A text as tokens."""

    tokens: tuple[TextToken, ...]
    characters: int
    bytes: int
    """Bytes of the text, without control tokens."""


def tokenization(tokenizer: Tokenizer, ids: Sequence[int]) -> Tokenization:
    """Describe the tokens `ids`."""
    found = tuple(
        TextToken(
            index=index,
            id=token,
            text=tokenizer.token_text(token),
            bytes=tokenizer.token_bytes(token),
            piece=tokenizer.piece(token),
            control=tokenizer.is_special(token),
        )
        for index, token in enumerate(ids)
    )
    written = b"".join(token.bytes for token in found if not token.control)
    return Tokenization(found, len(written.decode("utf-8", errors="replace")), len(written))
