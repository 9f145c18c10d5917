"""Records of a conversation file: each line is one event, in order.

Lines are never changed or removed. A message that the user takes back stays in the file; `HeadRecord` says where the
conversation continues.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeAlias

from llmcli.text.chat_template.json_text import json_text

VERSION = 1
"""The version of the format; files of later versions are refused."""


@dataclass(frozen=True)
class Begin:
    """The first line of a file."""

    id: str
    time: str
    """Creation time. All times are UTC, ISO 8601."""
    program: str
    version: int = VERSION


@dataclass(frozen=True)
class SettingsRecord:
    """Settings of the replies that follow."""

    model: str
    """The model's name."""
    source: str | None
    """How to load the model: an absolute path or a name; None is the starter model."""
    system: str | None = None
    template: str | None = None
    """The chat template that the user chose, by name; None: the model's."""
    template_args: Mapping[str, object] = field(default_factory=dict)
    raw: bool = False
    """Whether the model continues a text without a chat template: then there is no conversation to continue."""


def model_source(name: str | None) -> str | None:
    """A name of the model that works in any folder: the absolute path of a file or folder, otherwise `name`."""
    return str(Path(name).expanduser().resolve()) if name and Path(name).expanduser().exists() else name


@dataclass(frozen=True)
class Question:
    """The user's message number `n`, after message number `after`; 0 is the beginning."""

    n: int
    after: int
    text: str
    time: str


@dataclass(frozen=True)
class ReplyRecord:
    """The start of the model's reply to message `after`."""

    n: int
    after: int
    model: str
    sampling: Mapping[str, object]
    time: str
    prompt_tokens: int = 0
    """The tokens of the whole prompt; 0 if they are not known."""


@dataclass(frozen=True)
class More:
    """A further part of reply `n`."""

    n: int
    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class End:
    """The end of reply `n`. A reply without this line was cut off by the end of the program."""

    n: int
    reason: str


@dataclass(frozen=True)
class HeadRecord:
    """The conversation continues after message `n`."""

    n: int


@dataclass(frozen=True)
class Window:
    """From here on the model's context omits message `n` and everything before it, and begins with `summary`."""

    n: int
    summary: str | None = None


Record: TypeAlias = Begin | SettingsRecord | Question | ReplyRecord | More | End | HeadRecord | Window
# The names of kinds in files.
_KINDS: dict[str, type[Any]] = {
    "begin": Begin, "settings": SettingsRecord, "question": Question, "reply": ReplyRecord, "more": More,
    "end": End, "head": HeadRecord, "window": Window,
}  # fmt: skip
_NAMES = {kind: name for name, kind in _KINDS.items()}


def to_line(record: Record) -> str:
    """`record` as a line of JSON, without line end."""
    return json_text({"kind": _NAMES[type(record)], **asdict(record)})


def from_line(line: str) -> Record:
    """Parse a line that `to_line` wrote.

    Raises:
        ValueError: the line is not a record.
    """
    try:
        values = json.loads(line)
    except json.JSONDecodeError:
        raise ValueError("not JSON") from None
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
    "bool": lambda value: isinstance(value, bool),
    "str": lambda value: isinstance(value, str),
    "str | None": lambda value: value is None or isinstance(value, str),
    "tuple[int, ...]": lambda value: isinstance(value, list) and all(map(_is_count, value)),
    "Mapping[str, object]": lambda value: isinstance(value, dict),
}
