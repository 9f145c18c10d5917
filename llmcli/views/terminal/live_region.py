"""The end of a terminal's output that is still drawn over, while all before it stays as it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from os import terminal_size

# The terminal shows what is between these at once, if it can; one that cannot ignores them.
# https://gist.github.com/christianparpart/d8a62cc1ab659194337d73e399004036
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
# Drawing more often nobody would see, and it must leave the time to who has something to say.
_LEAST_PAUSE_S, _PAUSES = 0.05, 8


class OpenLines:
    """Lines below the last finished one. Each update is a single write and touches only rows that change.

    Open lines that would not fit the screen are shown from their end: what has scrolled away could not be drawn over,
    so nothing scrolls away before it is finished.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        size: Callable[[], terminal_size],
        *,
        least_pause_s: float = _LEAST_PAUSE_S,
        pauses: float = _PAUSES,
    ) -> None:
        """The cursor must be at the beginning of an empty line. `size` is asked at each update.

        Between two updates pass at least `least_pause_s` seconds, and `pauses` times what the first of them took.
        """
        self._least_pause_s, self._pauses = least_pause_s, pauses
        self._write, self._size = write, size
        self._shown: list[str] = []
        self._columns = 0
        self._is_cut = False
        """The first of the open lines are not shown."""
        self._gone = 0
        """How many of them scrolled away all the same, because the window became lower."""
        self._rest_until = 0.0

    @property
    def columns(self) -> int:
        """How wide the terminal is now."""
        return self._size().columns

    @property
    def rows(self) -> int:
        """How many open lines are shown at most."""
        return max(self._size().lines - 1, 1)

    def is_due(self) -> bool:
        """Whether it is time to draw again."""
        return time.perf_counter() >= self._rest_until

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Work out and update what is shown; the longer that takes, the longer the pause that follows."""
        began = time.perf_counter()
        yield
        now = time.perf_counter()
        self._rest_until = now + max(self._least_pause_s, self._pauses * (now - began))

    def update(self, finished: Sequence[str], still_open: Sequence[str]) -> None:
        """Put `finished` lines and then `still_open` ones in the place of those that were open.

        Of more open lines than `rows` any number of the first may be left out.
        """
        columns, _ = self._size()
        self._lose(len(self._shown) - self.rows - 1)
        is_cut = len(still_open) > self.rows
        lines = [*finished, *still_open[-self.rows :]]
        gone = min(self._gone, len(finished)) if is_cut else self._gone
        shown, first_open = lines[gone:], max(len(finished) - gone, 0)
        same = 0
        if columns == self._columns:
            fewer = min(len(shown), len(self._shown))
            same = next((row for row in range(fewer) if shown[row] != self._shown[row]), fewer)
        # The cursor is at the end of the last open line, or below all if none is open.
        data = self._drawn_over(shown, same) + ("\r\n" if shown and not still_open else "")
        if data:
            self._write(data)
        if finished or not still_open:
            self._gone = 0
        self._shown, self._columns, self._is_cut = shown[first_open:], columns, is_cut

    def _lose(self, rows: int) -> None:
        """The topmost `rows` lines are out of reach."""
        if rows > 0:
            del self._shown[:rows]
            # Of lines that were shown from their end these are not the first; they will be written once more.
            self._gone += 0 if self._is_cut else rows

    def _drawn_over(self, lines: Sequence[str], same: int) -> str:
        """What makes `lines` of the lines shown, which have the first `same` in common."""
        more = "\r\n".join(lines[same:])
        if same == len(self._shown):
            return f"\r\n{more}" if same and more else more
        up = len(self._shown) - 1 - same
        back = "\r" + (f"\x1b[{up}A" if up else "") + "\x1b[J"
        if same == len(lines) and same:
            back += "\x1b[A"
        return f"{_BEGIN}{back}{more}{_END}"
