"""What a model sees of a text: numbers, not letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmcli.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextToken:
    """A token where it stands in a text."""

    index: int
    id: int
    text: str
    bytes: bytes
    piece: str
    """How the vocabulary writes it."""
    control: bool
    """Not text: it steers the model, and no typed text can become it."""


@dataclass(frozen=True)
class Tokenization:
    """A text as tokens."""

    tokens: tuple[TextToken, ...]
    characters: int
    bytes: int
    """Of the text, control tokens left out."""


def tokenization(tokenizer: Tokenizer, ids: Sequence[int]) -> Tokenization:
    """The tokens `ids` with what they are made of."""
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
