"""Find the messages of saved conversations that contain given texts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from llmcli.conversations.tree import Node, Tree

# Characters of a message shown before and after the first place found, and how far a word may move the cut.
_BEFORE, _AFTER, _WORD = 30, 110, 15


@dataclass(frozen=True)
class MessageMatch:
    """A message that contains all the texts searched for."""

    message: int
    """Its number in the conversation."""
    turn: int
    """Its number among the questions on its branch, or that of the question it answers, from 1."""
    role: Literal["user", "assistant"]
    time: str
    places: int
    """How often the texts occur in the message."""
    context: str
    """The text around the first place, on one line; an ellipsis stands for what is left out."""
    marks: tuple[tuple[int, int], ...]
    """Start and end of each place in `context`."""


class TextQuery:
    """Texts that must all occur in a message, in any order and in upper or lower case.

    White space in a text matches any white space.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        """Raise `ValueError` if one of the texts has no characters other than white space."""
        found = [r"\s+".join(map(re.escape, text.split())) for text in texts]
        if not found or not all(found):
            raise ValueError("a text to search for is empty")
        self._each = [re.compile(one, re.IGNORECASE) for one in found]
        # The longest first: of two that begin at one place, mark the longer one.
        self._any = re.compile("|".join(sorted(found, key=len, reverse=True)), re.IGNORECASE)

    def matches(self, tree: Tree) -> Iterator[MessageMatch]:
        """The messages of a conversation that contain the texts, those on other branches too, in order."""
        for node in tree.nodes.values():
            if all(one.search(node.text) for one in self._each):
                yield self._match(tree, node)

    def _match(self, tree: Tree, node: Node) -> MessageMatch:
        context, marks = self._context(node.text)
        turn = sum(not each.is_reply for each in tree.path(node.n))
        role: Literal["user", "assistant"] = "assistant" if node.is_reply else "user"
        places = sum(1 for _ in self._any.finditer(node.text))
        return MessageMatch(node.n, turn, role, node.time, places, context, marks)

    def _context(self, text: str) -> tuple[str, tuple[tuple[int, int], ...]]:
        first = self._any.search(text)
        assert first is not None
        start = _cut_before(text, first.start())
        end = _cut_after(text, first.end())
        line = " ".join(text[start:end].split())
        before, after = "…" * bool(text[:start].strip()), "…" * bool(text[end:].strip())
        marks = tuple((found.start() + len(before), found.end() + len(before)) for found in self._any.finditer(line))
        return before + line + after, marks


def _cut_before(text: str, place: int) -> int:
    """Where the context of `place` begins: at a word, if one begins near."""
    start = max(place - _BEFORE, 0)
    word = re.compile(r"(?<=\s)\S").search(text, start, min(start + _WORD, place)) if start else None
    return word.start() if word is not None else start


def _cut_after(text: str, place: int) -> int:
    """Where the context of `place` ends: after a word, if one ends near."""
    end = min(place + _AFTER, len(text))
    space = -1 if end == len(text) else max(text.rfind(" ", end - _WORD, end), text.rfind("\n", end - _WORD, end))
    return space if space > place else end
