"""Telling what a model thinks from what it answers, in the text of a reply.

Models that reason do so between marks, which are control tokens in some vocabularies and plain text in others.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

TAGS = {
    **{f"<{name}>": f"</{name}>" for name in ("think", "thinking", "thought", "reasoning", "seed:think")},
    "[THINK]": "[/THINK]",
}
"""What begins a thought and what ends it, in most models. A thought comes before the answer, and once."""

_COHERE = {"<|START_THINKING|>": "think", "<|END_THINKING|>": "answer"}
# https://cookbook.openai.com/articles/openai-harmony: a reply consists of messages in channels.
_HARMONY = {
    "<|channel|>final<|message|>": "answer",
    "<|channel|>analysis<|message|>": "think",
    "<|channel|>commentary<|message|>": "think",
    # Any other header is nothing to answer with.
    "<|channel|>": "think",
    "<|start|>assistant": "begin",
    "<|end|>": "begin",
}
_HARMONY_TOKENS = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>")


@dataclass(frozen=True)
class ThinkingFormat:
    """How a model marks its thoughts: in each state, the marks that count and the states they lead to.

    The states are "begin", "answer", and those in which it thinks, whose names begin with "think".
    """

    states: Mapping[str, Mapping[str, str]]
    is_content: bool
    """Whether templates expect thoughts and marks in the content of a message, to treat them as they will. Others
    write marks of their own around the answer."""

    def opened(self, prompt: str) -> str:
        """The state in which a reply to `prompt` begins: some templates open a thought themselves."""
        end = prompt.rstrip()
        return next((state for mark, state in self.states["begin"].items() if end.endswith(mark)), "begin")


_TAGGED = ThinkingFormat(
    {
        "begin": {begin: f"think {begin}" for begin in TAGS},
        # Where the template has opened the thought, some models do so once more.
        **{f"think {begin}": {end: "answer", begin: f"think {begin}"} for begin, end in TAGS.items()},
        "answer": {},
    },
    is_content=True,
)
_COHERE_LIKE = ThinkingFormat(dict.fromkeys(("begin", "think", "answer"), _COHERE), is_content=False)
_HARMONY_LIKE = ThinkingFormat(dict.fromkeys(("begin", "think", "answer"), _HARMONY), is_content=False)


def thinking_format(added: Collection[str]) -> ThinkingFormat:
    """How a model marks its thoughts whose vocabulary has the `added` tokens."""
    if all(token in added for token in _HARMONY_TOKENS):
        return _HARMONY_LIKE
    return _COHERE_LIKE if all(token in added for token in _COHERE) else _TAGGED


def marking_tokens(added: Collection[str]) -> tuple[str, ...]:
    """Which of the `added` tokens say where a reply thinks: they belong to its text, control tokens or not."""
    form = thinking_format(added)
    tokens = _HARMONY_TOKENS if form is _HARMONY_LIKE else (*TAGS, *TAGS.values(), *_COHERE)
    return tuple(token for token in tokens if token in added)


class ThinkingSplitter:
    """Splits a reply that comes in pieces; however it is cut, thoughts and answer are the same.

    Spaces and line ends after a mark belong to neither.
    """

    def __init__(self, form: ThinkingFormat, state: str = "begin") -> None:
        """`state` is what `form.opened` says of the prompt."""
        self._form, self._state = form, state
        self._held = ""
        self._is_after_mark = self.is_thinking

    @property
    def is_thinking(self) -> bool:
        """Whether the reply is in a thought, as far as is known."""
        return self._state.startswith("think")

    def push(self, text: str) -> tuple[str, str]:
        """What a piece adds to the thoughts and to the answer. What may become a mark is held back."""
        self._held += text
        thought = answer = ""
        while True:
            said, mark = self._next()
            if self.is_thinking:
                thought += said
            else:
                answer += said
            if mark is None:
                return thought, answer
            self._state, self._is_after_mark = self._form.states[self._state][mark], True

    def finish(self) -> tuple[str, str]:
        """The reply is over: what was held back was no mark."""
        rest, self._held = self._held, ""
        return (rest, "") if self.is_thinking else ("", rest)

    def _next(self) -> tuple[str, str | None]:
        """What is said before the next mark, and the mark, if it is there already."""
        if self._is_after_mark:
            self._held = self._held.lstrip()
            self._is_after_mark = not self._held
        if self._state == "begin" and self._form is _TAGGED:
            # Only here: anywhere else in an answer a tag is but a word.
            start = self._held.lstrip()
            mark = next((mark for mark in TAGS if start.startswith(mark)), None)
            if mark is not None:
                self._held = start[len(mark) :]
            elif start and not any(tag.startswith(start) for tag in TAGS):
                self._state = "answer"
                return self._next()
            return "", mark
        marks = tuple(self._form.states[self._state])
        text, undecided = self._held, _undecided(self._held, marks)
        match = _any_of(marks).search(text) if marks else None
        if match is not None and match.start() < undecided:
            self._held = text[match.end() :]
            return text[: match.start()], match[0]
        self._held = text[undecided:]
        return text[:undecided], None


def split_thinking(text: str, form: ThinkingFormat, state: str = "begin") -> tuple[str, str]:
    """The thoughts and the answer of a whole reply."""
    splitter = ThinkingSplitter(form, state)
    thought, answer = splitter.push(text)
    last_thought, rest = splitter.finish()
    return thought + last_thought, answer + rest


@lru_cache(maxsize=32)
def _any_of(marks: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))))


def _undecided(text: str, marks: tuple[str, ...]) -> int:
    """The first position from which all the rest of `text` is the beginning of a longer mark."""
    longest = max(map(len, marks), default=0)
    for at in range(max(0, len(text) - longest + 1), len(text)):
        if any(mark.startswith(text[at:]) and len(mark) > len(text) - at for mark in marks):
            return at
    return len(text)
