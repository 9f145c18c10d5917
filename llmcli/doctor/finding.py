"""One result of looking at a machine, its settings or a model's files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["good", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """Something that was looked at."""

    level: Level
    subject: str
    message: str
