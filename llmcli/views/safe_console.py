"""A console whose own control sequences are the only ones."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from llmcli.views.terminal import visible


class SafeConsole(Console):
    """Shows what could drive a terminal in whatever it prints, of every view and each of its parts.

    Rich lets ESC, OSC and C1 through, in text as in tables. Views that lay text out by its width have made it visible
    before; here it is made sure.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of a view, and of each part of it."""
        for segment in super().render(renderable, options):
            if segment.control is None and not segment.text.isprintable():
                yield Segment(visible(segment.text), segment.style)
            else:
                yield segment
