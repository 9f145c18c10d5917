"""Where a reply to a prompt begins: in a thought that the chat template opened, before one, or in the answer."""

from __future__ import annotations

from collections.abc import Sequence

from llmcli.text.reasoning import ReplyStart
from llmcli.text.tokenizer import Tokenizer

# Longer than any mark that opens or closes a thought, with the line ends after it.
_TAIL = 16


def prompt_end(tokenizer: Tokenizer, prompt: Sequence[int]) -> str:
    """The last characters of `prompt`: a mark of a thought that it ends with is whole in them."""
    return tokenizer.decode(prompt[-_TAIL:], skip_special=False)


def reply_start(tokenizer: Tokenizer, prompt: Sequence[int]) -> ReplyStart:
    """Where a reply to `prompt` begins: in a thought if the end of the prompt opens one."""
    return ReplyStart(tokenizer.thinking.opened(prompt_end(tokenizer, prompt)))


def opening_tokens(tokenizer: Tokenizer) -> list[int]:
    """The tokens with which a model of this vocabulary opens a thought; none if it marks none, or in plain text."""
    marks = [mark for mark, state in tokenizer.thinking.states["begin"].items() if state.startswith("think")]
    ids = [tokenizer.token_to_id(mark) for mark in marks]
    return [token for token in ids if token is not None and tokenizer.marks_thoughts(token)]
