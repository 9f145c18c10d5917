"""Split a reply into thinking and answer.

Reasoning models put their thinking between marks, which are control tokens in some vocabularies, plain text in others.
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
    "<|channel>thought": "<channel|>",
    "<|inner_prefix|>": "<|inner_suffix|>",
}
"""The marks that begin and end thinking in most models, where it comes once, before the answer."""

_COHERE = {"<|START_THINKING|>": "think", "<|END_THINKING|>": "answer"}
_HARMONY_HEADER = "<|start|>assistant"
# https://cookbook.openai.com/articles/openai-harmony: a reply consists of messages in channels.
_HARMONY = {
    "<|channel|>final<|message|>": "answer",
    "<|channel|>analysis<|message|>": "think",
    "<|channel|>commentary<|message|>": "think",
    # Messages in any other channel are not the answer.
    "<|channel|>": "think",
    _HARMONY_HEADER: "begin",
    "<|end|>": "begin",
}
_HARMONY_TOKENS = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>")

_HARMONY_END = "<|end|>"

# Gemma 4: the first is followed by the name of the channel, which is text.
_GEMMA_TOKENS = ("<|channel>", "<channel|>")

# Solar Open: after the thinking the model begins another message.
_SOLAR_HEADER = "<|begin|>assistant"
_SOLAR = {"<|content|>": "answer", "<|think|>": "think", _SOLAR_HEADER: "begin", _HARMONY_END: "begin"}
_SOLAR_TOKENS = ("<|begin|>", "<|think|>", "<|content|>", "<|end|>")

# Muse Glimmer: the header of a message says to whom the model speaks.
_MUSE_HEADER, _MUSE_END = "<|start|>assistant", "<|eom|>"
_MUSE_ENDS = {_MUSE_END: "begin", _MUSE_HEADER: "begin"}
_MUSE_RECIPIENTS = {
    f"{space}to={name}": state
    for name, state in (("user<|message|>", "answer"), ("self<|message|>", "think"), ("", "think"))
    for space in (" ", "")
}
"""A message to itself or to a tool is not the answer."""
_MUSE_TOKENS = ("<|start|>", "<|message|>", "<|eom|>")

# Hunyuan and Ernie put the answer between tags too.
_ANSWER_TAGS = {"<answer>": "</answer>", "<response>": "</response>"}

PLAIN = "plain"
"""The state of a raw text to continue: it has no thinking marks, all of it is the answer."""

Part: TypeAlias = Literal["thought", "answer", "mark"]
"""The part that a piece of a reply belongs to. Marks, and the white space next to them, belong to neither."""


@dataclass(frozen=True)
class ReplyStart:
    """The state in which a reply begins: inside thinking, before it, or in the answer."""

    state: str = PLAIN
    """The state of the `ThinkingFormat` at the end of the prompt, before the `prefill`."""
    prefill: str = ""
    """The given beginning of the reply, which the model continues."""


@dataclass(frozen=True)
class ThinkingFormat:
    """How a model marks its thinking, as a state machine: for each state, the marks and the states they lead to.

    The states are "begin", "answer", and the thinking states, whose names begin with "think".
    """

    states: Mapping[str, Mapping[str, str]]
    is_content: bool
    """Whether templates expect thinking and marks inside the content of a message. Other templates write marks
    themselves, around a separate field."""

    header: str = ""
    """The end of a prompt in formats where the answer needs a mark too; empty in others."""
    end: str = ""
    """The end of a message in these formats."""
    marks_first: bool = False
    """Whether thinking can only begin the reply: later, the same mark is ordinary text."""

    def opened(self, prompt: str) -> str:
        """The state in which a reply to `prompt` begins: some templates open the thinking themselves, some close it."""
        end = prompt.rstrip()
        marks = dict(self.states["begin"])
        for following in self.states.values():
            marks |= {mark: state for mark, state in following.items() if _is_answer(state)}
        return next((state for mark, state in marks.items() if end.endswith(mark)), "begin")

    def awaits_answer(self, state: str) -> bool:
        """Whether a mark is needed before text counts as the answer: thinking is open, or no message has begun."""
        return state.startswith("think") or (state == "begin" and bool(self.header))

    def answer_opening(self, prompt: str) -> str:
        """The mark to add after `prompt` so that the answer follows: closes opened thinking, or is empty."""
        state = self.opened(prompt)
        if state == "begin":
            if not self.header or not prompt.endswith(self.header):
                return ""
        elif not state.startswith("think"):
            return ""
        following = self.states["begin" if self.header else state]
        mark = next(mark for mark, after in following.items() if _is_answer(after))
        if self.header:
            return mark if state == "begin" else f"{self.end}{self.header}{mark}"
        # Empty thinking in the form that templates of reasoning models write it: with an empty line, or without.
        return f"\n{mark}\n\n" if prompt.endswith("\n") else mark


def _is_answer(state: str) -> bool:
    return state != "begin" and not state.startswith("think")


def _tagged(answer_tag: str | None = None) -> ThinkingFormat:
    """Thinking between tags, which comes once, before the answer; perhaps the answer is between `answer_tag` too."""
    answer, inside = ("answer", {}) if answer_tag is None else ("answer unopened", {answer_tag: "answer opened"})
    states: dict[str, dict[str, str]] = {
        "begin": {begin: f"think {begin}" for begin in TAGS} | inside,
        # If the template has opened the thinking, some models repeat the mark.
        **{f"think {begin}": {end: answer, begin: f"think {begin}"} for begin, end in TAGS.items()},
        "answer": {},
    }
    if answer_tag is not None:
        end = _ANSWER_TAGS[answer_tag]
        states |= {answer: inside, "answer opened": {f"\n{end}": "answer", end: "answer"}}
    # Ernie's templates write the tags of the answer; Hunyuan's remove them.
    return ThinkingFormat(states, is_content=answer_tag != "<response>", marks_first=True)


_TAGGED = _tagged()
_WITH_ANSWER_TAGS = {tag: _tagged(tag) for tag in _ANSWER_TAGS}
_COHERE_LIKE = ThinkingFormat(dict.fromkeys(("begin", "think", "answer"), _COHERE), is_content=False)
_HARMONY_LIKE = ThinkingFormat(
    dict.fromkeys(("begin", "think", "answer"), _HARMONY), is_content=False, header=_HARMONY_HEADER, end=_HARMONY_END
)
_SOLAR_LIKE = ThinkingFormat(
    dict.fromkeys(("begin", "think", "answer"), _SOLAR), is_content=False, header=_SOLAR_HEADER, end=_HARMONY_END
)
_MUSE_LIKE = ThinkingFormat(
    {"begin": _MUSE_RECIPIENTS | _MUSE_ENDS, "think": _MUSE_ENDS, "answer": _MUSE_ENDS},
    is_content=False,
    header=_MUSE_HEADER,
    end=_MUSE_END,
)
_BY_TOKENS = (
    (_HARMONY_TOKENS, _HARMONY_LIKE),
    (_SOLAR_TOKENS, _SOLAR_LIKE),
    (_MUSE_TOKENS, _MUSE_LIKE),
    (tuple(_COHERE), _COHERE_LIKE),
)


def thinking_format(added: Collection[str], templates: Collection[str] = ()) -> ThinkingFormat:
    """The thinking format of a model, from the spellings of its `added` tokens and its chat `templates`."""
    found = next((form for tokens, form in _BY_TOKENS if all(token in added for token in tokens)), None)
    if found is not None:
        return found
    for tag, form in _WITH_ANSWER_TAGS.items():
        if any(tag in template and _ANSWER_TAGS[tag] in template for template in templates):
            return form
    return _TAGGED


def marking_tokens(added: Collection[str]) -> tuple[str, ...]:
    """Those of the `added` tokens that mark thinking: they are kept in a reply's text even if control tokens."""
    form = thinking_format(added)
    tagged = (*TAGS, *TAGS.values(), *_COHERE, *_GEMMA_TOKENS, *_ANSWER_TAGS, *_ANSWER_TAGS.values())
    special = next((tokens for tokens, other in _BY_TOKENS if other is form and form.header), None)
    return tuple(token for token in dict.fromkeys(special or tagged) if token in added)


class ThinkingSplitter:
    """Splits a streamed reply into thinking and answer; the result does not depend on how it is cut into pieces.

    White space after a mark belongs to neither.
    """

    def __init__(self, form: ThinkingFormat, state: str = "begin", *, exact: bool = False) -> None:
        """`state` is the result of `form.opened` for the prompt.

        `exact` is for structured output: only white space in the same piece as the mark is dropped before the answer,
        and nothing in the answer is a mark.
        """
        self._form, self._state, self._exact = form, state, exact
        self._held = ""
        self._is_after_mark = self.is_thinking

    @property
    def state(self) -> str:
        """The state of the `ThinkingFormat` after the text pushed so far."""
        return self._state

    @property
    def is_thinking(self) -> bool:
        """Whether the reply is in its thinking."""
        return self._state.startswith("think")

    @property
    def awaits_answer(self) -> bool:
        """Whether a mark is still needed before the answer."""
        return self._form.awaits_answer(self._state)

    @property
    def _part(self) -> Part:
        """The part that the next text belongs to."""
        return "thought" if self.is_thinking or (self._exact and self.awaits_answer) else "answer"

    @property
    def _is_undecided(self) -> bool:
        """Whether the reply is only white space so far, so that a tag would be a mark."""
        return self._state == "begin" and self._form.marks_first

    @property
    def _is_plain(self) -> bool:
        """Whether nothing in the text that follows can be a mark."""
        if self._held or self._is_after_mark or self._exact or self._is_undecided:
            return False
        return not self._form.states.get(self._state)

    def push(self, text: str) -> tuple[str, str]:
        """Split `text`: (thinking, answer). Text that may become a mark is held back."""
        pieces = self.pieces(text)
        thought, answer = ("".join(piece for part, piece in pieces if part == which) for which in ("thought", "answer"))
        return thought, answer

    def pieces(self, text: str) -> list[tuple[Part, str]]:
        """Split `text` into labeled pieces; joined, they are all text pushed so far that is not held back."""
        if self._is_plain:
            return [(self._part, text)] if text else []
        self._held += text
        pieces: list[tuple[Part, str]] = []
        while True:
            if self._is_after_mark:
                rest = self._held.lstrip()
                pieces.append(("mark", self._held[: len(self._held) - len(rest)]))
                self._held = rest
                self._is_after_mark = not rest
            before, mark, after = self._next()
            if mark is None:
                pieces.append((self._part, before))
                break
            pieces += [("mark" if self._is_undecided else self._part, before), ("mark", mark)]
            self._held = after
            self._state, self._is_after_mark = self._form.states[self._state][mark], True
            if self._exact and _is_answer(self._state):
                self._state = PLAIN
        pieces = [(part, piece) for part, piece in pieces if piece]
        if self._exact and not self.awaits_answer:
            self._is_after_mark = False
            if pieces and pieces[-1][0] == "answer":
                self._state = PLAIN
        return pieces

    def finish(self) -> tuple[str, str]:
        """The held-back text at the end of the reply, which was not a mark: (thinking, answer)."""
        rest, self._held = self._held, ""
        return (rest, "") if self._part == "thought" else ("", rest)

    def _next(self) -> tuple[str, str | None, str]:
        """Text before the next mark, the mark or None if there is none yet, and the text after it."""
        if self._is_undecided:
            # Only at the start: a tag inside an answer is ordinary text.
            start = self._held.lstrip()
            first = self._form.states["begin"]
            mark = next((mark for mark in first if start.startswith(mark)), None)
            if mark is not None:
                return self._held[: len(self._held) - len(start)], mark, start[len(mark) :]
            if not start or any(tag.startswith(start) for tag in first):
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
    """Split a whole reply into (thinking, answer)."""
    splitter = ThinkingSplitter(form, state)
    thought, answer = splitter.push(text)
    last_thought, rest = splitter.finish()
    return thought + last_thought, answer + rest


@lru_cache(maxsize=32)
def _any_of(marks: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))))


def _undecided(text: str, marks: tuple[str, ...]) -> int:
    """The first position from which the rest of `text` is a proper prefix of a mark; `len(text)` if there is none."""
    longest = max(map(len, marks), default=0)
    for at in range(max(0, len(text) - longest + 1), len(text)):
        if any(mark.startswith(text[at:]) and len(mark) > len(text) - at for mark in marks):
            return at
    return len(text)
