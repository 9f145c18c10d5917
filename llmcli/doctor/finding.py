"""The result of one check of `llm doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["good", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    level: Level
    subject: str
    message: str
