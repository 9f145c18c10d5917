"""Turning tokens back into text one at a time, although a character may span several of them."""

from __future__ import annotations

import codecs

from llmcli.text.tokenizer import Tokenizer


class Detokenizer:
    """Incremental `Tokenizer.decode`: the pieces of `push`, and `finish`, join to what decoding all ids at once gives.

    Bytes that are no whole character yet are held back until the character is complete or can no longer become one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._spaces_to_strip = tokenizer.stripped_spaces
        self._first = True

    def push(self, token: int) -> str:
        """The text that `token` completes; empty inside a character and for control tokens that mark no thought."""
        if self._tokenizer.is_silent(token) or not self._tokenizer.piece(token):
            return ""
        data = self._tokenizer.token_bytes(token, first=self._first)
        self._first = False
        return self._strip(self._decoder.decode(data))

    def finish(self) -> str:
        """The end of the text: U+FFFD if it stops inside a character, else nothing."""
        return self._strip(self._decoder.decode(b"", final=True))

    def _strip(self, text: str) -> str:
        while text and self._spaces_to_strip:
            if text[0] != " ":
                self._spaces_to_strip = 0
                break
            text = text[1:]
            self._spaces_to_strip -= 1
        return text
