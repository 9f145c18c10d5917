"""Telling what a model thinks from what it answers, in the text of a reply.

Models that reason do so between marks, which are control tokens in some vocabularies and plain text in others.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

TAGS = {
    **{f"<{name}>": f"</{name}>" for name in ("think", "thinking", "thought", "reasoning", "seed:think")},
    "[THINK]": "[/THINK]",
}
"""What begins a thought and what ends it, in most models. A thought comes before the answer, and once."""

_COHERE = {"<|START_THINKING|>": "think", "<|END_THINKING|>": "answer"}
_HARMONY_HEADER = "<|start|>assistant"
# https://cookbook.openai.com/articles/openai-harmony: a reply consists of messages in channels.
_HARMONY = {
    "<|channel|>final<|message|>": "answer",
    "<|channel|>analysis<|message|>": "think",
    "<|channel|>commentary<|message|>": "think",
    # Any other header is nothing to answer with.
    "<|channel|>": "think",
    _HARMONY_HEADER: "begin",
    "<|end|>": "begin",
}
_HARMONY_TOKENS = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>")

PLAIN = "plain"
"""The state of a text to continue: nothing in it marks a thought, all of it is the answer."""

Part: TypeAlias = Literal["thought", "answer", "mark"]
"""What a piece of a reply belongs to. A mark, and the spaces and line ends beside it, belong to neither."""


@dataclass(frozen=True)
class ReplyStart:
    """Where a reply begins: in a thought, before one, or in the answer."""

    state: str = PLAIN
    """The state of the `ThinkingFormat` at the end of the prompt, before the `prefill`."""
    prefill: str = ""
    """How the reply begins; the model goes on after it."""


@dataclass(frozen=True)
class ThinkingFormat:
    """How a model marks its thoughts: in each state, the marks that count and the states they lead to.

    The states are "begin", "answer", and those in which it thinks, whose names begin with "think".
    """

    states: Mapping[str, Mapping[str, str]]
    is_content: bool
    """Whether templates expect thoughts and marks in the content of a message, to treat them as they will. Others
    write marks of their own around the answer."""

    header: str = ""
    """What a prompt ends with in formats where the answer, too, has a mark before it. Empty in others."""

    def opened(self, prompt: str) -> str:
        """The state in which a reply to `prompt` begins: some templates open a thought themselves, some close one."""
        end = prompt.rstrip()
        marks = dict(self.states["begin"])
        for following in self.states.values():
            marks |= {mark: state for mark, state in following.items() if state == "answer"}
        return next((state for mark, state in marks.items() if end.endswith(mark)), "begin")

    def awaits_answer(self, state: str) -> bool:
        """Whether a mark must come before text that is the answer: a thought is open, or no message is."""
        return state.startswith("think") or (state == "begin" and bool(self.header))

    def answer_opening(self, prompt: str) -> str:
        """What makes the text that follows `prompt` the answer: the end of a thought that it opens, or nothing."""
        state = self.opened(prompt)
        if state == "begin":
            if not self.header or not prompt.endswith(self.header):
                return ""
        elif not state.startswith("think"):
            return ""
        mark = next(mark for mark, following in self.states[state].items() if following == "answer")
        if self.header:
            return mark if state == "begin" else f"<|end|>{self.header}{mark}"
        # As the templates of models with thoughts write one that is empty: with an empty line, or without any.
        return f"\n{mark}\n\n" if prompt.endswith("\n") else mark


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
_HARMONY_LIKE = ThinkingFormat(
    dict.fromkeys(("begin", "think", "answer"), _HARMONY), is_content=False, header=_HARMONY_HEADER
)


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

    def __init__(self, form: ThinkingFormat, state: str = "begin", *, exact: bool = False) -> None:
        """`state` is what `form.opened` says of the prompt.

        `exact` is for an answer that must have a form: no space is taken from it but what is in one piece with the mark
        before it, and nothing in it is a mark.
        """
        self._form, self._state, self._exact = form, state, exact
        self._held = ""
        self._is_after_mark = self.is_thinking

    @property
    def state(self) -> str:
        """The state of the `ThinkingFormat` after what has been pushed."""
        return self._state

    @property
    def is_thinking(self) -> bool:
        """Whether the reply is in a thought, as far as is known."""
        return self._state.startswith("think")

    @property
    def awaits_answer(self) -> bool:
        """Whether a mark must still come before the answer."""
        return self._form.awaits_answer(self._state)

    @property
    def _part(self) -> Part:
        """What text belongs to that comes now."""
        return "thought" if self.is_thinking or (self._exact and self.awaits_answer) else "answer"

    @property
    def _is_undecided(self) -> bool:
        """Whether there was nothing but spaces so far, after which a tag is a mark."""
        return self._state == "begin" and self._form is _TAGGED

    def push(self, text: str) -> tuple[str, str]:
        """What a piece adds to the thoughts and to the answer. What may become a mark is held back."""
        pieces = self.pieces(text)
        thought, answer = ("".join(piece for part, piece in pieces if part == which) for which in ("thought", "answer"))
        return thought, answer

    def pieces(self, text: str) -> list[tuple[Part, str]]:
        """What a piece adds, cut where thought, answer and marks meet; joined it is what was pushed and not held."""
        self._held += text
        pieces: list[tuple[Part, str]] = []
        while True:
            if self._is_after_mark:
                rest = self._held.lstrip()
                pieces.append(("mark", self._held[: len(self._held) - len(rest)]))
                self._held = rest
                self._is_after_mark = not rest
            said, mark, after = self._next()
            if mark is None:
                pieces.append((self._part, said))
                break
            pieces += [("mark" if self._is_undecided else self._part, said), ("mark", mark)]
            self._held = after
            self._state, self._is_after_mark = self._form.states[self._state][mark], True
            if self._exact and self._state == "answer":
                self._state = PLAIN
        pieces = [(part, piece) for part, piece in pieces if piece]
        if self._exact and not self.awaits_answer:
            self._is_after_mark = False
            if pieces and pieces[-1][0] == "answer":
                self._state = PLAIN
        return pieces

    def finish(self) -> tuple[str, str]:
        """The reply is over: what was held back was no mark."""
        rest, self._held = self._held, ""
        return (rest, "") if self._part == "thought" else ("", rest)

    def _next(self) -> tuple[str, str | None, str]:
        """What is said before the next mark, the mark, if it is there already, and what follows it."""
        if self._is_undecided:
            # Only here: anywhere else in an answer a tag is but a word.
            start = self._held.lstrip()
            mark = next((mark for mark in TAGS if start.startswith(mark)), None)
            if mark is not None:
                return self._held[: len(self._held) - len(start)], mark, start[len(mark) :]
            if not start or any(tag.startswith(start) for tag in TAGS):
                return "", None, ""
            self._state = "answer"
        marks = tuple(self._form.states.get(self._state, ()))
        text, undecided = self._held, _undecided(self._held, marks)
        match = _any_of(marks).search(text) if marks else None
        if match is not None and match.start() < undecided:
            return text[: match.start()], match[0], text[match.end() :]
        self._held = text[undecided:]
        return text[:undecided], None, ""


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
