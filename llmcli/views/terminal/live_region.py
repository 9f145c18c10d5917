"""The lines at the end of a terminal's output that are redrawn in place; everything above them is final."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from os import terminal_size

# Synchronized output: the terminal shows what is between these in one frame; terminals without it ignore them.
# https://gist.github.com/christianparpart/d8a62cc1ab659194337d73e399004036
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
# More frequent drawing is not visible, and drawing must leave most of the time to decoding.
_LEAST_PAUSE_S, _PAUSES = 0.05, 8


class OpenLines:
    """Redrawable lines below the last finished one. Each update is a single write and touches only rows that change.

    If the open lines do not fit the screen, only the last ones are shown: a line that has scrolled off the screen
    cannot be redrawn, so no line may scroll off before it is finished.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        size: Callable[[], terminal_size],
        *,
        least_pause_s: float = _LEAST_PAUSE_S,
        pauses: float = _PAUSES,
    ) -> None:
        """The cursor must be at the start of an empty line. `size` is called at each update.

        An update is due `least_pause_s` seconds after the previous one, or `pauses` times the duration of the
        previous one, whichever is longer.
        """
        self._least_pause_s, self._pauses = least_pause_s, pauses
        self._write, self._size = write, size
        self._shown: list[str] = []
        self._columns = 0
        self._is_cut = False
        """Whether the first open lines are left out because they do not fit."""
        self._scrolled = 0
        """Number of open lines that scrolled off the screen because the window became lower."""
        self._rest_until = 0.0

    @property
    def columns(self) -> int:
        """Current width of the terminal."""
        return self._size().columns

    @property
    def rows(self) -> int:
        """Maximum number of open lines that are shown."""
        return max(self._size().lines - 1, 1)

    def is_due(self) -> bool:
        """Whether the pause since the last update is over."""
        return time.perf_counter() >= self._rest_until

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Measure the time of one update: the longer it takes, the longer the pause after it."""
        began = time.perf_counter()
        yield
        now = time.perf_counter()
        self._rest_until = now + max(self._least_pause_s, self._pauses * (now - began))

    def update(self, finished: Sequence[str], still_open: Sequence[str]) -> None:
        """Replace the open lines with `finished` lines followed by `still_open` ones.

        If more than `rows` lines are open, the caller may leave out any number of the first ones.
        """
        columns, _ = self._size()
        self._drop_scrolled(len(self._shown) - self.rows - 1)
        is_cut = len(still_open) > self.rows
        lines = [*finished, *still_open[-self.rows :]]
        scrolled = min(self._scrolled, len(finished)) if is_cut else self._scrolled
        shown, first_open = lines[scrolled:], max(len(finished) - scrolled, 0)
        same = 0
        if columns == self._columns:
            fewer = min(len(shown), len(self._shown))
            same = next((row for row in range(fewer) if shown[row] != self._shown[row]), fewer)
        # The cursor is at the end of the last open line, or on the line below if none is open.
        data = self._redraw(shown, same) + ("\r\n" if shown and not still_open else "")
        if data:
            self._write(data)
        if finished or not still_open:
            self._scrolled = 0
        self._shown, self._columns, self._is_cut = shown[first_open:], columns, is_cut

    def _drop_scrolled(self, rows: int) -> None:
        """Forget the top `rows` shown lines: they have scrolled off the screen."""
        if rows > 0:
            del self._shown[:rows]
            # If the first open lines were left out, these are not the first; they will be written once more.
            self._scrolled += 0 if self._is_cut else rows

    def _redraw(self, lines: Sequence[str], same: int) -> str:
        """The bytes that turn the shown lines into `lines`; the first `same` lines are equal."""
        more = "\r\n".join(lines[same:])
        if same == len(self._shown):
            return f"\r\n{more}" if same and more else more
        up = len(self._shown) - 1 - same
        back = "\r" + (f"\x1b[{up}A" if up else "") + "\x1b[J"
        if same == len(lines) and same:
            back += "\x1b[A"
        return f"{_BEGIN}{back}{more}{_END}"
