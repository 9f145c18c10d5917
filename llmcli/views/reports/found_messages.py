"""Messages found by a search in saved conversations: one line each, and their JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.text import Text

    from llmcli.conversations.search import MessageMatch


@dataclass(frozen=True)
class FoundMessage:
    """A message that was found, and the conversation it is in."""

    conversation: str
    """The id."""
    kind: Literal["chat", "run"]
    match: MessageMatch


def found_json(found: FoundMessage) -> dict[str, object]:
    """The message as an object of `llm chats search --json`."""
    match = asdict(found.match)
    marks = [list(mark) for mark in match.pop("marks")]
    return {"id": found.conversation, "kind": found.kind, **match, "marks": marks}


def found_line(found: FoundMessage) -> str:
    """The message in one line; two asterisks stand on each side of a place."""
    pieces = _pieces(found.match.context, found.match.marks)
    return _head(found) + "".join(f"**{piece}**" if is_place else piece for piece, is_place in pieces)


def found_text(found: FoundMessage, *, columns: int) -> Text:
    """The message in one styled line of at most `columns` cells; the places are bold and underlined."""
    from rich.text import Text

    from llmcli.views.terminal.colors import TEAL
    from llmcli.views.terminal.sanitize import visible

    line = Text()
    line.append(_head(found), style="dim")
    for piece, is_place in _pieces(found.match.context, found.match.marks):
        line.append(visible(piece), style=f"bold underline {TEAL}" if is_place else "")
    line.truncate(columns, overflow="ellipsis")
    return line


def _pieces(context: str, marks: Sequence[tuple[int, int]]) -> Iterator[tuple[str, bool]]:
    """The context cut at the marks: each piece, and whether it is a place."""
    end = 0
    for first, last in marks:
        yield context[end:first], False
        yield context[first:last], True
        end = last
    yield context[end:], False


def _head(found: FoundMessage) -> str:
    return f"{found.conversation}  {found.kind.ljust(4)}  turn {found.match.turn}  {found.match.role.ljust(9)}  "
