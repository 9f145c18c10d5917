"""Terminal detection, size and colors; sanitized writing to stdout and stderr."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TextIO

from llmcli.views.terminal import unencodable
from llmcli.views.terminal.colors import RED
from llmcli.views.terminal.sanitize import visible

if TYPE_CHECKING:
    from rich.console import Console

LEAST_COLUMNS, MOST_COLUMNS = 20, 10_000
"""Limits of the width that views are drawn for: a narrower terminal wraps the lines, which loses no text."""
_color: bool | None = None
_quiet = False
_take_note: Callable[[str], None] | None = None


def configure(color: bool | None) -> None:
    """Set the value of `--color/--no-color`; None decides by the terminal, NO_COLOR and TERM."""
    global _color
    _color = color


def set_quiet(quiet: bool) -> None:
    """Set the value of `--quiet`: whether notes and progress are left out of stderr."""
    global _quiet
    _quiet = quiet


def pass_notes_to(take: Callable[[str], None]) -> None:
    """Call `take` with each note instead of printing it: for a process whose parent prints its notes."""
    global _take_note
    _take_note = take


def is_quiet() -> bool:
    """Whether notes and progress are left out of stderr."""
    return _quiet


def console_out() -> Console:
    """A console on stdout, for the answer and other data."""
    return _console(sys.stdout)


def console_err() -> Console:
    """A console on stderr, for everything else."""
    return _console(sys.stderr)


def prepare() -> None:
    """Make the standard streams accept every character, and clamp the terminal size given by the environment."""
    unencodable.replace_unencodable()
    # Rich, Click and Typer use these variables as the size of every stream.
    for name, least in (("COLUMNS", LEAST_COLUMNS), ("TERMINAL_WIDTH", LEAST_COLUMNS), ("LINES", 1)):
        value = os.environ.get(name, "").strip()
        if not (value.isascii() and value.isdecimal() and value.strip("0")):
            # Programs that do not know the size export 0.
            os.environ.pop(name, None)
        else:
            digits = value.lstrip("0")
            size = MOST_COLUMNS if len(digits) > len(str(MOST_COLUMNS)) else int(digits)
            os.environ[name] = str(min(max(size, least), MOST_COLUMNS))


def is_terminal(stream: TextIO | None) -> bool:
    """Whether `stream` is a terminal; False if it is closed or absent."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def can_redraw(stream: TextIO | None) -> bool:
    """Whether `stream` is a terminal that can redraw lines, as progress bars do."""
    return is_terminal(stream) and not _is_dumb()


def shows_color(stream: TextIO | None) -> bool:
    """Whether text written to `stream` may be styled."""
    if _color is not None:
        return _color
    return can_redraw(stream) and not os.environ.get("NO_COLOR")


def can_draw() -> bool:
    """Whether a reply on stdout may be redrawn in place with styles."""
    return can_redraw(sys.stdout) and shows_color(sys.stdout)


def size(stream: TextIO) -> os.terminal_size:
    """Columns and lines of the terminal that `stream` writes to; 80 by 24 if unknown."""
    try:
        found = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        found = os.terminal_size((0, 0))
    return os.terminal_size((found.columns or 80, found.lines or 24))


def row_width() -> int:
    """Columns for a row of a list on stderr; 120 if it is not a terminal."""
    return size(sys.stderr).columns if is_terminal(sys.stderr) else 120


def stdout() -> TextIO:
    """Standard output; `OSError` if the program was started without one."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "Standard output is closed")
    return sys.stdout


def write_line(line: str) -> None:
    """Write a line of data to stdout and flush: UTF-8 into a pipe or file in any locale, sanitized on a terminal."""
    # JSON stays JSON: the characters replaced here are already escaped in it.
    if is_terminal(stdout()):
        stdout().write(f"{visible(line)}\n")
    else:
        stdout().buffer.write(f"{line}\n".encode("utf-8", errors=unencodable.HANDLER))
    stdout().flush()


def note(message: str) -> None:
    """Print a dim note on stderr, unless --quiet is on."""
    if _take_note is not None:
        _take_note(message)
    elif not _quiet:
        _line(message, "dim")


def say(message: str) -> None:
    """Print dim text that the user asked for on stderr, with or without --quiet."""
    _line(message, "dim")


def error(message: str) -> None:
    """Print an error message on stderr."""
    _line(f"llm: {message}", RED)


def _line(message: str, style: str) -> None:
    if sys.stderr is None:
        return
    message = _wrap_words(visible(message))
    # Plain text does not need Rich, whose import would slow down the quickest commands.
    if not shows_color(sys.stderr):
        sys.stderr.write(f"{message}\n")
        return
    from rich.text import Text

    console_err().print(Text(message, style=style), soft_wrap=True)


def _wrap_words(message: str) -> str:
    """`message` wrapped at spaces to the terminal's width, since the terminal itself would break within words.

    A word longer than a line stays whole, so that a path can be copied.
    """
    columns = size(sys.stderr).columns
    # Few characters are wider than two columns.
    if not can_redraw(sys.stderr) or all(len(line) * 2 <= columns for line in message.split("\n")):
        return message
    from rich.cells import cell_len

    lines: list[str] = []
    for paragraph in message.split("\n"):
        line = ""
        for word in re.findall(r"\s*\S+", paragraph):
            if line.strip() and cell_len(line + word) > columns:
                lines.append(line)
                line, word = "", word.lstrip()
            line += word
        lines.append(line)
    return "\n".join(lines)


def _console(stream: TextIO) -> Console:
    from llmcli.views.terminal.console import SafeConsole

    styled = shows_color(stream)
    # With --color and no terminal to ask, use the 256-color palette, which every pager and terminal supports.
    palette: Literal["auto", "256"] = "auto" if can_redraw(stream) else "256"
    return SafeConsole(
        least_columns=LEAST_COLUMNS,
        file=stream,
        color_system=palette if styled else None,
        no_color=not styled,
        force_terminal=styled or can_redraw(stream),
        markup=False,
        emoji=False,
        highlight=False,
    )


def _is_dumb() -> bool:
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")
