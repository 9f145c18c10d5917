"""The events of a reply with what is thought told from what is answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llmcli.engine.events import Event, Finish, Prefill
from llmcli.text.reasoning import ThinkingSplitter, split_thinking
from llmcli.text.tokenizer import Tokenizer

# Longer than any mark that opens a thought, with the line ends after it.
_TAIL = 16


class ThinkingApart:
    """Given the events of a reply one after the other, returns them with thoughts in `thinking` instead of `text`."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], *, prefill: str = "") -> None:
        """`prompt` is what the reply answers, without the reply's own beginning, `prefill`."""
        self._splitter = ThinkingSplitter(tokenizer.thinking, _state(tokenizer, prompt))
        self.prefill_thinking, self.prefill = self._splitter.push(prefill)
        """What the `prefill` is of thoughts, and what of the answer."""

    def __call__(self, event: Event) -> Event:
        """`event`, split."""
        if isinstance(event, Prefill):
            return event
        thinking, text = self._splitter.push(event.text)
        if isinstance(event, Finish):
            more_thinking, more = self._splitter.finish()
            thinking, text = thinking + more_thinking, text + more
        return replace(event, text=text, thinking=thinking)


def thought_and_answer(tokenizer: Tokenizer, prompt: Sequence[int], reply: str) -> tuple[str, str]:
    """What was thought and what was answered in a whole `reply` to `prompt`."""
    return split_thinking(reply, tokenizer.thinking, _state(tokenizer, prompt))


def _state(tokenizer: Tokenizer, prompt: Sequence[int]) -> str:
    return tokenizer.thinking.opened(tokenizer.decode(prompt[-_TAIL:], skip_special=False))
