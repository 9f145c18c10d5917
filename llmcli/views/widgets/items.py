"""Items in a row, with line breaks only between them: a token stays beside its probability."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

_GAP = 2


class Items:
    """Texts side by side with two spaces between them, as many on a line as fit; one that is too long is folded."""

    def __init__(self, items: Sequence[Text]) -> None:
        self._items = items

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        widths = [item.cell_len for item in self._items] or [0]
        return Measurement(max(widths), sum(widths) + _GAP * (len(widths) - 1)).with_maximum(options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = Text(overflow="fold")
        for item in self._items:
            if line and line.cell_len + _GAP + item.cell_len > options.max_width:
                yield line
                line = Text(overflow="fold")
            if line:
                line.append(" " * _GAP)
            line.append_text(item)
        yield line
