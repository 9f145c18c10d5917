"""The lines at the end of a terminal's output that are redrawn in place; everything above them is final."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from os import terminal_size

# Synchronized output: the terminal shows what is between these in one frame; terminals without it ignore them.
# https://gist.github.com/christianparpart/d8a62cc1ab659194337d73e399004036
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
# More frequent drawing is not visible, and drawing must leave most of the time to decoding.
_LEAST_PAUSE_S, _PAUSES = 0.05, 8
_STYLES = re.compile(r"\x1b\[[\d;]*m")
_STYLE_OR_CHAR = re.compile(r"\x1b\[[\d;]*m|.")
# Not a space, nor a part of a table's lines, whose length depends on the width.
_LETTER = re.compile(r"[^\s\u2500-\u257f]")


def rewraps() -> bool:
    """Whether the terminal breaks lines anew when its window becomes narrower, as most do, instead of cutting them."""
    is_screen = "STY" in os.environ and "TMUX" not in os.environ
    return not (is_screen or "XTERM_VERSION" in os.environ or os.environ.get("TERM") == "linux")


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
        rewraps: bool = True,
        cursor: Callable[[], tuple[int, int] | None] = lambda: None,
    ) -> None:
        """The cursor must be at the start of an empty line. `size` is called at each update.

        `rewraps`: lines that are too long for a narrower window are broken by the terminal, not cut. `cursor` is called
        after a change of width, for the row and the column of the cursor on the screen, from 0; None if unknown.

        An update is due `least_pause_s` seconds after the previous one, or `pauses` times the duration of the
        previous one, whichever is longer.
        """
        self._least_pause_s, self._pauses = least_pause_s, pauses
        self._write, self._size, self._rewraps, self._cursor = write, size, rewraps, cursor
        self._shown: list[str] = []
        self._columns = 0
        self._is_cut = False
        """Whether the first open lines are left out because they do not fit."""
        self._scrolled = _Scrolled()
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
        is_resized = columns != self._columns
        above = self.rows
        if is_resized and self._shown:
            above = self._after_resize(columns)
            self._scrolled.by_letters = True
        self._drop_scrolled(len(self._shown) - above - 1)
        is_cut = len(still_open) > self.rows
        lines = [*finished, *still_open[-self.rows :]]
        # If the first open lines are left out, none of those shown has scrolled off.
        gone, shown = self._scrolled.split(lines, len(finished) if is_cut else len(lines))
        first_open = max(len(finished) - gone, 0)
        same = 0
        if not is_resized:
            fewer = min(len(shown), len(self._shown))
            same = next((row for row in range(fewer) if shown[row] != self._shown[row]), fewer)
        # The cursor is at the end of the last open line, or on the line below if none is open.
        data = self._redraw(shown, same) + ("\r\n" if shown and not still_open else "")
        if data:
            self._write(data)
        if finished or not still_open:
            self._scrolled = _Scrolled()
        self._shown, self._columns, self._is_cut = shown[first_open:], columns, is_cut

    def _after_resize(self, columns: int) -> int:
        """Break the shown lines as the terminal does; returns how many rows of the screen are above the cursor."""
        if self._rewraps:
            self._shown = [row for line in self._shown for row in wrapped(line, columns)]
        where = self._cursor()
        if where is None:
            return self.rows
        row, column = where
        if column == 0 and self._shown[-1]:
            # The last line fills its row, and the cursor went to the next one.
            self._shown.append("")
        return row

    def _drop_scrolled(self, rows: int) -> None:
        """Forget the top `rows` shown lines: they have scrolled off the screen."""
        if rows > 0:
            # If the first open lines were left out, these are not the first; they will be written once more.
            if not self._is_cut:
                self._scrolled.add(self._shown[:rows])
            del self._shown[:rows]

    def _redraw(self, lines: Sequence[str], same: int) -> str:
        """The bytes that turn the shown lines into `lines`; the first `same` lines are equal."""
        more = "\r\n".join(lines[same:])
        if same == len(self._shown):
            return f"\r\n{more}" if same and more else more
        up = len(self._shown) - 1 - same
        # Row by row: tmux copies a screen that is erased as a whole into its history, where it would be seen twice.
        back = "\r\x1b[2K" + "\x1b[A\x1b[2K" * up
        if same == len(lines) and same:
            back += "\x1b[A"
        return f"{_BEGIN}{back}{more}{_END}"


def wrapped(line: str, columns: int) -> list[str]:
    """The rows in which a terminal of `columns` columns breaks a line, without styles."""
    from rich.cells import cell_len

    rows, width = [""], 0
    for char in _STYLES.sub("", line):
        cells = cell_len(char)
        if rows[-1] and width + cells > columns:
            rows.append("")
            width = 0
        rows[-1] += char
        width += cells
    return rows


class _Scrolled:
    """Open lines that scrolled off the screen because the window became smaller, and must not be drawn again."""

    def __init__(self) -> None:
        self._lines = self._letters = 0
        self.by_letters = False
        """Whether the width has changed: then lines are broken elsewhere, and only their letters can be counted."""

    def add(self, lines: Sequence[str]) -> None:
        """The next `lines` have scrolled off."""
        self._lines += len(lines)
        self._letters += sum(len(_LETTER.findall(_STYLES.sub("", line))) for line in lines)

    def split(self, lines: Sequence[str], first: int) -> tuple[int, list[str]]:
        """How many of the first `first` of `lines` have scrolled off, and the rest of `lines`."""
        if not self.by_letters:
            gone = min(self._lines, first)
            return gone, list(lines[gone:])
        left = self._letters
        if not left:
            return 0, list(lines)
        for gone, line in enumerate(lines[:first]):
            letters = len(_LETTER.findall(_STYLES.sub("", line)))
            if letters > left:
                return gone, [_without_letters(line, left), *lines[gone + 1 :]]
            left -= letters
            if not left:
                # A blank line after the last letter may not have scrolled off.
                return gone + 1, list(lines[gone + 1 :])
        return first, list(lines[first:])


def _without_letters(line: str, count: int) -> str:
    """`line` without its first `count` letters and what is between them; styles stay."""
    kept = ""
    for part in _STYLE_OR_CHAR.findall(line):
        if part.startswith("\x1b["):
            kept += part
        elif count:
            count -= bool(_LETTER.fullmatch(part))
        elif part != " " or _STYLES.sub("", kept):
            kept += part
    return kept
