"""A terminal to write to, and to read what stands on it."""

from __future__ import annotations

import os

import pyte


class Emulator:
    """A terminal of some size that remembers what has scrolled away."""

    def __init__(self, columns: int, rows: int) -> None:
        self._screen = pyte.HistoryScreen(columns, rows, history=100_000, ratio=0.5)
        self._stream = pyte.Stream(self._screen)
        self.writes: list[str] = []

    def write(self, text: str) -> None:
        self.writes.append(text)
        self._stream.feed(text)

    def size(self) -> os.terminal_size:
        return os.terminal_size((self._screen.columns, self._screen.lines))

    def resize(self, columns: int, rows: int) -> None:
        """As terminals do: what no longer fits above the cursor scrolls away, what is too wide is cut off."""
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
        """Spoil the line on the screen that begins with `text`."""
        row = next(y for y in range(self._screen.lines) if self._line(self._screen.buffer[y]).startswith(text))
        self._screen.buffer[row][0] = self._screen.buffer[row][0]._replace(data="#")

    def lines(self) -> list[str]:
        """All lines there are, those that have scrolled away first."""
        rows = [*self._screen.history.top, *(self._screen.buffer[y] for y in range(self._screen.lines))]
        lines = [self._line(row) for row in rows]
        while lines and not lines[-1]:
            del lines[-1]
        return lines

    def _line(self, row: object) -> str:
        # A wide character is followed by an empty cell.
        return "".join(row[x].data for x in range(self._screen.columns)).rstrip()  # type: ignore[index]
