"""The lines of a conversation's file: each is one thing that happened, in the order in which it did.

Nothing is ever changed or taken out. What a user takes back stays in the file; `HeadRecord` says where the conversation
goes on instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeAlias

from llmcli.text.chat_template.json_text import json_text

VERSION = 1
"""Of the format. A program refuses files of a later one."""


@dataclass(frozen=True)
class Begin:
    """The first line."""

    id: str
    time: str
    """Of all times here: UTC, ISO 8601."""
    program: str
    version: int = VERSION


@dataclass(frozen=True)
class SettingsRecord:
    """What holds for the replies from here on."""

    model: str
    """The model's own name."""
    source: str | None
    """What it is loaded by: an absolute path or a name; None is the starter model."""
    system: str | None = None
    template: str | None = None
    """The name of the chat template, where the user chose one."""
    template_args: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """A message of the user, number `n`, said after message number `after`; 0 is the beginning."""

    n: int
    after: int
    text: str
    time: str


@dataclass(frozen=True)
class ReplyRecord:
    """The model begins to answer the message `after`."""

    n: int
    after: int
    model: str
    sampling: Mapping[str, object]
    time: str


@dataclass(frozen=True)
class More:
    """The reply `n` goes on."""

    n: int
    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class End:
    """The reply `n` is over. A reply without this line was cut off by the end of the program."""

    n: int
    reason: str


@dataclass(frozen=True)
class HeadRecord:
    """The conversation goes on after message `n`."""

    n: int


@dataclass(frozen=True)
class Window:
    """From here on the model does not read message `n` nor what was before it, but `summary` in their place."""

    n: int
    summary: str | None = None


Record: TypeAlias = Begin | SettingsRecord | Question | ReplyRecord | More | End | HeadRecord | Window
# As files have them.
_KINDS: dict[str, type[Any]] = {
    "begin": Begin, "settings": SettingsRecord, "question": Question, "reply": ReplyRecord, "more": More,
    "end": End, "head": HeadRecord, "window": Window,
}  # fmt: skip
_NAMES = {kind: name for name, kind in _KINDS.items()}


def to_line(record: Record) -> str:
    """`record` as a line of JSON, without its line end."""
    return json_text({"kind": _NAMES[type(record)], **asdict(record)})


def from_line(line: str) -> Record:
    """The record that `to_line` wrote.

    Raises:
        ValueError: it is not the line of a record.
    """
    try:
        values = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    kind = _KINDS.get(str(values.pop("kind", None))) if isinstance(values, dict) else None
    if kind is None:
        raise ValueError("not a record")
    given = {}
    for each in fields(kind):
        if each.name in values:
            value = values[each.name]
            if not _CHECKS[str(each.type)](value):
                raise ValueError(f"{each.name} has a wrong value")
            given[each.name] = tuple(value) if isinstance(value, list) else value
    try:
        record: Record = kind(**given)
    except TypeError:
        raise ValueError("a field is missing") from None
    return record


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "int": _is_count,
    "str": lambda value: isinstance(value, str),
    "str | None": lambda value: value is None or isinstance(value, str),
    "tuple[int, ...]": lambda value: isinstance(value, list) and all(map(_is_count, value)),
    "Mapping[str, object]": lambda value: isinstance(value, dict),
}
