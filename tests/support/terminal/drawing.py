"""Drawing a view as text, at a fixed width."""

from __future__ import annotations

import io
from typing import Literal, TypeAlias

from rich.console import Console, RenderableType
from rich.text import Text

Colors: TypeAlias = Literal["standard", "256", "truecolor"]


def lines(view: RenderableType, width: int = 80, colors: Colors | None = None) -> list[str]:
    """The lines of `view` as text, with escape sequences."""
    console = Console(
        file=io.StringIO(),
        width=width,
        color_system=colors,
        force_terminal=colors is not None,
        legacy_windows=False,
        highlight=False,
    )
    console.print(view)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def drawn(view: RenderableType, width: int = 80, colors: Colors | None = None) -> str:
    """`view` as text, without spaces at the ends of lines."""
    return "\n".join(line.rstrip() for line in lines(view, width, colors))


def drawn_in_color(view: RenderableType, width: int) -> Text:
    """`view` as a terminal with colors shows it."""
    return Text.from_ansi("\n".join(lines(view, width, "truecolor")))


def without_color(text: Text) -> str:
    """The characters alone, without spaces at the ends of lines."""
    return "\n".join(line.rstrip() for line in text.plain.splitlines())
