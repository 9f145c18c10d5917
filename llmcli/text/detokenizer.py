"""Incremental detokenization: tokens to text one at a time, although a character may span several tokens."""

from __future__ import annotations

import codecs

from llmcli.text.tokenizer import Tokenizer


class Detokenizer:
    """Incremental `Tokenizer.decode`: the joined results of `push` and `finish` equal decoding all ids together.

    The bytes of an incomplete character are held back until it is complete or turns out to be invalid.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._spaces_to_strip = tokenizer.stripped_spaces
        self._first = True

    def push(self, token: int) -> str:
        """The text that `token` completes; empty inside a character and for control tokens, except thinking marks."""
        if self._tokenizer.is_silent(token):
            return ""
        data = self._tokenizer.token_bytes(token, first=self._first)
        if not data and not self._tokenizer.piece(token):
            return ""
        self._first = False
        return self._strip(self._decoder.decode(data))

    def finish(self) -> str:
        """The end of the text: U+FFFD if it ends inside a character, else empty."""
        return self._strip(self._decoder.decode(b"", final=True))

    def _strip(self, text: str) -> str:
        while text and self._spaces_to_strip:
            if text[0] != " ":
                self._spaces_to_strip = 0
                break
            text = text[1:]
            self._spaces_to_strip -= 1
        return text
