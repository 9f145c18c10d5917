"""A console whose own control sequences are the only ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.segment import Segment

from llmcli.views.terminal.sanitize import visible


class SafeConsole(Console):
    """Shows what could drive a terminal in whatever it prints, of every view and each of its parts.

    Rich lets ESC, OSC and C1 through, in text as in tables. Views that lay text out by its width have made it visible
    before; here it is made sure.
    """

    def __init__(self, *, least_columns: int, **options: Any) -> None:
        """A console with the `options` of Rich's that draws for `least_columns` or more."""
        self._least_columns = least_columns
        super().__init__(**options)

    @property
    def size(self) -> ConsoleDimensions:
        """Columns and lines to draw for."""
        columns, lines = super().size
        return ConsoleDimensions(max(columns, self._least_columns), max(lines, 1))

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of a view, and of each part of it."""
        for segment in super().render(renderable, options):
            if segment.control is None and not segment.text.isprintable():
                yield Segment(visible(segment.text), segment.style)
            else:
                yield segment
