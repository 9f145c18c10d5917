"""Convert the spelling of a token in its vocabulary to bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer as Backend

from llmcli.errors import UnsupportedModelError
from llmcli.text.expansion_limit import growth, pairs_of, refuse_rule

SPACE = "▁"
"""The space character in SentencePiece vocabularies."""


def byte_alphabet() -> dict[str, int]:
    """The characters that represent bytes in byte-level vocabularies, as introduced by GPT-2.

    Printable Latin-1 characters represent themselves; the other 68 bytes follow from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_ALPHABET = byte_alphabet()


class PieceDecoder:
    """A tokenizer's decoder that can be applied to one token at a time."""

    def __init__(self, backend: Backend, *, source: str) -> None:
        """Read the decoder's steps.

        Raises:
            CheckpointError: a token could become far longer than its spelling.
            UnsupportedModelError: the decoder's output for a token depends on more than the token and its position.
        """
        self.stripped_spaces = 0
        """Number of leading spaces of the whole text that are dropped."""
        self._byte_level = False
        self._byte_fallback = False
        self._replacements: list[tuple[str, str]] = []
        self._dropped_at_start = ""
        state = b"null" if backend.decoder is None else backend.decoder.__getstate__()
        refuse_rule(growth(pairs_of(state)), source=source)
        decoder = json.loads(state)
        fused = False
        for step in _flat(decoder):
            kind = step.get("type")
            if kind == "ByteLevel":
                self._byte_level = True
            elif kind == "ByteFallback":
                self._byte_fallback = True
            elif kind == "Fuse":
                fused = True
            elif kind == "Metaspace":
                self._replacements.append((step["replacement"], " "))
                if step.get("prepend_scheme") != "never":
                    self._dropped_at_start = step["replacement"]
            elif kind == "Replace" and "String" in step["pattern"] and not fused:
                self._replacements.append((step["pattern"]["String"], step["content"]))
            elif kind == "Strip" and fused and step["content"] == " " and step["stop"] == 0:
                self.stripped_spaces = step["start"]
            else:
                raise UnsupportedModelError(f"{source} has a token decoder of the kind {kind}, which is not supported.")
        if self._byte_level == bool(self._replacements):
            raise UnsupportedModelError(
                f"{source} has a token decoder that is neither byte-level nor SentencePiece's, which is not supported."
            )

    def piece_bytes(self, piece: str, *, first: bool, added: bool = False) -> bytes:
        """The bytes of the token with the spelling `piece`; `first` if the text begins with it.

        An `added` token is spelled as text, also in a byte-level vocabulary.
        """
        if self._byte_level:
            if added:
                return piece.encode()
            values = [_ALPHABET.get(char) for char in piece]
            spelled = [value for value in values if value is not None]
            return bytes(spelled) if len(spelled) == len(values) else piece.encode()
        if first and self._dropped_at_start:
            piece = piece.replace(self._dropped_at_start, "")
        for old, new in self._replacements:
            piece = piece.replace(old, new)
        if self._byte_fallback and (byte := byte_of(piece)) is not None:
            return bytes([byte])
        return piece.encode()


def byte_of(piece: str) -> int | None:
    """The byte of a SentencePiece byte token such as `<0xE2>`; None for any other token."""
    if len(piece) != 6 or not (piece.startswith("<0x") and piece.endswith(">")):
        return None
    digits = piece[3:5]
    return int(digits, 16) if all(digit in "0123456789abcdefABCDEF" for digit in digits) else None


def _flat(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if decoder is None:
        return []
    if decoder.get("type") == "Sequence":
        return [step for inner in decoder["decoders"] for step in _flat(inner)]
    return [decoder]
