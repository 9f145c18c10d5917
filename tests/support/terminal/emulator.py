"""A terminal emulator whose content tests can read."""

from __future__ import annotations

import itertools
import os
import re
from typing import Any

import pyte
from rich.cells import cell_len
from rich.color import Color
from rich.style import Style
from rich.text import Text


class Emulator:
    """A terminal that keeps lines that have scrolled away."""

    def __init__(self, columns: int, rows: int) -> None:
        self._screen = pyte.HistoryScreen(columns, rows, history=100_000, ratio=0.5)
        self._stream = pyte.Stream(self._screen)
        self.writes: list[str] = []

    def write(self, text: str) -> None:
        self.writes.append(text)
        # The emulator does not support dim text, which most terminals show as gray.
        self._stream.feed(text.replace("\x1b[2m", "\x1b[90m"))

    def size(self) -> os.terminal_size:
        return os.terminal_size((self._screen.columns, self._screen.lines))

    def resize(self, columns: int, rows: int) -> None:
        """Resize as terminals do: lines that no longer fit above the cursor scroll away, long lines are cut off."""
        screen, cursor = self._screen, self._screen.cursor
        lost = max(0, cursor.y - rows + 1)
        screen.history.top.extend(screen.buffer[y] for y in range(lost))
        kept = {y - lost: screen.buffer[y] for y in range(lost, screen.lines) if y - lost < rows}
        x, y = min(cursor.x, columns - 1), cursor.y - lost
        screen.resize(rows, columns)
        screen.buffer.clear()
        screen.buffer.update(kept)
        for row in kept.values():
            for column in [column for column in row if column >= columns]:
                del row[column]
        # Not the cursor there was before.
        screen.cursor.x, screen.cursor.y = x, y

    def deface(self, text: str) -> None:
        """Overwrite the line on the screen that begins with `text`."""
        row = next(y for y in range(self._screen.lines) if self._line(self._screen.buffer[y]).startswith(text))
        self._screen.buffer[row][0] = self._screen.buffer[row][0]._replace(data="#")

    def lines(self) -> list[str]:
        """All lines, those that have scrolled away first."""
        lines = [self._line(row) for row in self._rows()]
        while lines and not lines[-1]:
            del lines[-1]
        return lines

    def styled(self) -> Text:
        """The same lines with their styles."""
        lines = []
        for row, line in zip(self._rows(), self.lines(), strict=False):
            cells = (row[x] for x in range(self._screen.columns))
            alike = itertools.groupby(cells, _style)
            text = Text.assemble(*(("".join(cell.data for cell in run), style) for style, run in alike))
            text.truncate(cell_len(line))
            lines.append(text)
        return Text("\n").join(lines)

    def _rows(self) -> list[Any]:
        return [*self._screen.history.top, *(self._screen.buffer[y] for y in range(self._screen.lines))]

    def _line(self, row: Any) -> str:
        # A wide character is followed by an empty cell.
        return "".join(row[x].data for x in range(self._screen.columns)).rstrip()


def _style(cell: Any) -> Style:
    return Style(
        color=_color(cell.fg),
        bgcolor=_color(cell.bg),
        bold=cell.bold,
        italic=cell.italics,
        underline=cell.underscore,
        strike=cell.strikethrough,
        reverse=cell.reverse,
    )


def _color(name: str) -> Color:
    """A color as the emulator calls it: brown is the dark yellow of the first terminals."""
    if re.fullmatch("[0-9a-f]{6}", name):
        return Color.parse(f"#{name}")
    return Color.parse(re.sub("^b(ri|fi)ght", "bright_", name).replace("brown", "yellow"))
