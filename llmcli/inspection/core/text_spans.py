"""Split a text into spans over which attention is summed: words, lines, or messages of a conversation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, TypeAlias

from llmcli.text.chat.prompt import Message
from llmcli.text.tokenizer import Tokenizer

Unit: TypeAlias = Literal["token", "word", "line", "message"]


@dataclass(frozen=True)
class TextSpan:
    """The tokens from `start` to `stop` (exclusive)."""

    text: str
    start: int
    stop: int


class Spans:
    """The spans of a growing text: finished spans are not split again."""

    def __init__(self, unit: Unit, tokenizer: Tokenizer, said: Sequence[Message] = ()) -> None:
        """`said` are the messages to find, for the unit "message"."""
        self._unit, self._tokenizer, self._said = unit, tokenizer, said
        self._found: list[TextSpan] = []

    def of(self, ids: Sequence[int]) -> list[TextSpan]:
        """The spans of `ids`, which must begin with the ids of the last call; empty for the unit "token"."""
        if self._unit == "token":
            return []
        if self._unit == "message" and self._found:
            self._found[-1] = replace(self._found[-1], stop=len(ids))
            return self._found
        if self._unit == "message":
            self._found = messages(self._tokenizer, ids, self._said)
            return self._found
        cut = words if self._unit == "word" else lines
        # The last span may continue.
        start = self._found.pop().start if self._found else 0
        more = cut(self._tokenizer, ids[start:])
        self._found += [TextSpan(span.text, span.start + start, span.stop + start) for span in more]
        return self._found


def words(tokenizer: Tokenizer, ids: Sequence[int]) -> list[TextSpan]:
    """Split into words, each with the white space before it; a control token is a word by itself."""

    def begins(at: int) -> bool:
        if tokenizer.is_special(ids[at]) or tokenizer.is_special(ids[at - 1]):
            return True
        return tokenizer.token_bytes(ids[at])[:1].isspace() or tokenizer.token_bytes(ids[at - 1])[-1:] == b"\n"

    return _cut(tokenizer, ids, begins)


def lines(tokenizer: Tokenizer, ids: Sequence[int]) -> list[TextSpan]:
    """Split into lines; each ends with the token that contains its newline."""
    return _cut(tokenizer, ids, lambda at: b"\n" in tokenizer.token_bytes(ids[at - 1]))


def messages(tokenizer: Tokenizer, ids: Sequence[int], said: Sequence[Message]) -> list[TextSpan]:
    """One span per message in `said`, including the template's text before it, then one for the rest, the reply.

    A message that the template left out has no span.
    """
    starts, at, ends = [], 0, []
    for token in ids:
        starts.append(at)
        at += len(tokenizer.token_bytes(token))
    text = b"".join(tokenizer.token_bytes(token) for token in ids)
    found, reached = [], 0
    for message in said:
        content = message.content.strip().encode("utf-8", errors="replace")
        begin = text.find(content, reached)
        if content and begin >= 0:
            reached = begin + len(content)
            found.append((f"{message.role}: {message.content.strip()}", reached))
    ends = [sum(start < end for start in starts) for _, end in found]
    edges = [0, *ends, len(ids)]
    labels = [label for label, _ in found] + ["the reply"]
    return [TextSpan(label, a, b) for label, (a, b) in zip(labels, pairwise(edges), strict=True) if a < b]


def _cut(tokenizer: Tokenizer, ids: Sequence[int], begins: Callable[[int], bool]) -> list[TextSpan]:
    edges = [0, *(at for at in range(1, len(ids)) if begins(at)), len(ids)]
    return [TextSpan(tokenizer.decode(ids[a:b], skip_special=False), a, b) for a, b in pairwise(edges)]
