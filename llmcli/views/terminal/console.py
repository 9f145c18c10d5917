"""A Rich console that lets no control characters of the printed text reach the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.segment import Segment

from llmcli.views.terminal.colors import theme
from llmcli.views.terminal.sanitize import visible


class SafeConsole(Console):
    """Replaces control characters in every segment with visible characters.

    Rich passes ESC, OSC and C1 through, in text as in tables. Views that lay out text by its width have already
    sanitized it; this is the last line of defense.
    """

    def __init__(self, *, least_columns: int, **options: Any) -> None:
        """`options` are those of Rich's `Console`. The reported width is never below `least_columns`."""
        self._least_columns = least_columns
        super().__init__(theme=theme(), **options)

    @property
    def size(self) -> ConsoleDimensions:
        """Terminal size in columns and lines, with the lower limits applied."""
        columns, lines = super().size
        return ConsoleDimensions(max(columns, self._least_columns), max(lines, 1))

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render a view or a part of one into sanitized segments."""
        for segment in super().render(renderable, options):
            if segment.control is None and not segment.text.isprintable():
                yield Segment(visible(segment.text), segment.style)
            else:
                yield segment
