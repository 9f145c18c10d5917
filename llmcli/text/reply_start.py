"""Whether a reply begins inside thinking that the chat template opened, before thinking, or in the answer."""

from __future__ import annotations

from collections.abc import Sequence

from llmcli.text.reasoning import ReplyStart
from llmcli.text.tokenizer import Tokenizer

# Tokens: longer than any thinking mark with the line ends after it.
_TAIL = 16


def prompt_end(tokenizer: Tokenizer, prompt: Sequence[int]) -> str:
    """The last characters of `prompt`, enough to contain a thinking mark at its end."""
    return tokenizer.decode(prompt[-_TAIL:], skip_special=False)


def reply_start(tokenizer: Tokenizer, prompt: Sequence[int]) -> ReplyStart:
    """The state in which a reply to `prompt` begins: inside thinking if the end of the prompt opens it."""
    return ReplyStart(tokenizer.thinking.opened(prompt_end(tokenizer, prompt)))


def opening_tokens(tokenizer: Tokenizer) -> list[int]:
    """The control tokens that open thinking in this vocabulary; empty if there are none or the marks are plain text."""
    marks = [mark for mark, state in tokenizer.thinking.states["begin"].items() if state.startswith("think")]
    ids = [tokenizer.token_to_id(mark) for mark in marks]
    return [token for token in ids if token is not None and tokenizer.marks_thoughts(token)]
