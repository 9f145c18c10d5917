"""The events of a reply, with thoughts separated from the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llmcli.engine.events import Event, Finish, Prefill
from llmcli.text.reasoning import ReplyStart, ThinkingSplitter, split_thinking
from llmcli.text.reply_start import reply_start
from llmcli.text.tokenizer import Tokenizer


class ThinkingApart:
    """Takes the events of a reply one by one, and returns each with its thought in `thinking` instead of `text`."""

    def __init__(self, tokenizer: Tokenizer, start: ReplyStart, *, exact: bool = False) -> None:
        """`start` is where the reply begins; `exact` is as for a `ThinkingSplitter`."""
        self._splitter = ThinkingSplitter(tokenizer.thinking, start.state, exact=exact)
        self.prefill_thinking, self.prefill = self._splitter.push(start.prefill)
        """The parts of the prefill that belong to the thought and to the answer."""

    @property
    def awaits_answer(self) -> bool:
        """Whether a thought must end before the answer can begin."""
        return self._splitter.awaits_answer

    def push(self, text: str) -> tuple[str, str]:
        """Split the next text of the reply into what it adds to the thought and to the answer."""
        return self._splitter.push(text)

    def finish(self) -> tuple[str, str]:
        """The reply is over: return the held-back text of the thought and of the answer."""
        return self._splitter.finish()

    def __call__(self, event: Event) -> Event:
        """`event` with its text split into `thinking` and `text`."""
        if isinstance(event, Prefill):
            return event
        thinking, text = self.push(event.text)
        if isinstance(event, Finish):
            more_thinking, more = self.finish()
            thinking, text = thinking + more_thinking, text + more
        if (text, thinking) == (event.text, event.thinking):
            return event
        return replace(event, text=text, thinking=thinking)


def thought_and_answer(tokenizer: Tokenizer, prompt: Sequence[int], reply: str) -> tuple[str, str]:
    """Split a whole `reply` to `prompt` into thought and answer."""
    return split_thinking(reply, tokenizer.thinking, reply_start(tokenizer, prompt).state)
