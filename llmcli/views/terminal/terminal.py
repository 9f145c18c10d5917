"""The one place that knows about the terminal: whether there is one, its colors, and what must never reach it."""

from __future__ import annotations

import errno
import os
import re
import sys
from typing import TYPE_CHECKING, Literal, TextIO

from llmcli.views.terminal import unencodable
from llmcli.views.terminal.sanitize import visible

if TYPE_CHECKING:
    from rich.console import Console

LEAST_COLUMNS, MOST_COLUMNS = 20, 10_000
"""What views are drawn for: in a narrower terminal its lines are broken, which is better than columns without text."""
_color: bool | None = None
_quiet = False


def configure(color: bool | None) -> None:
    """Set what `--color/--no-color` says; None leaves it to the terminal, NO_COLOR and TERM."""
    global _color
    _color = color


def set_quiet(quiet: bool) -> None:
    """Set what `--quiet` says: whether notes and progress are left out of stderr."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether notes and progress are left out of stderr."""
    return _quiet


def console_out() -> Console:
    """A console for the answer and other data, on stdout."""
    return _console(sys.stdout)


def console_err() -> Console:
    """A console for everything else, on stderr."""
    return _console(sys.stderr)


def prepare() -> None:
    """Let no stream fail at a character, and no size that the environment gives make views empty or endless."""
    unencodable.never_fail()
    # Rich, Click and Typer take what these say for the size of any stream.
    for name, least in (("COLUMNS", LEAST_COLUMNS), ("TERMINAL_WIDTH", LEAST_COLUMNS), ("LINES", 1)):
        value = os.environ.get(name, "").strip()
        if not (value.isascii() and value.isdecimal() and value.strip("0")):
            # 0 is what programs export that do not know it.
            os.environ.pop(name, None)
        else:
            digits = value.lstrip("0")
            size = MOST_COLUMNS if len(digits) > len(str(MOST_COLUMNS)) else int(digits)
            os.environ[name] = str(min(max(size, least), MOST_COLUMNS))


def is_terminal(stream: TextIO | None) -> bool:
    """Whether someone sees what is written to `stream`; False for one that is closed or absent."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def can_redraw(stream: TextIO | None) -> bool:
    """Whether `stream` is a terminal on which lines may be drawn over, as progress bars do."""
    return is_terminal(stream) and not _is_dumb()


def shows_color(stream: TextIO | None) -> bool:
    """Whether text written to `stream` may be styled."""
    if _color is not None:
        return _color
    return can_redraw(stream) and not os.environ.get("NO_COLOR")


def can_draw() -> bool:
    """Whether a reply on stdout may be drawn with styles, over what was there before."""
    return can_redraw(sys.stdout) and shows_color(sys.stdout)


def size(stream: TextIO) -> os.terminal_size:
    """How many columns and lines the terminal has that `stream` writes to; the usual ones where it does not say."""
    try:
        found = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        found = os.terminal_size((0, 0))
    return os.terminal_size((found.columns or 80, found.lines or 24))


def stdout() -> TextIO:
    """Standard output; `OSError` if the program was started without one."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "Standard output is closed")
    return sys.stdout


def write_line(line: str) -> None:
    """Write a line of data to stdout, at once: into a pipe or file in UTF-8 whatever the locale, and made visible on a
    terminal, in its encoding.
    """
    # JSON stays JSON: what is left to escape there is spelled as JSON spells it.
    if is_terminal(stdout()):
        stdout().write(f"{visible(line)}\n")
    else:
        stdout().buffer.write(f"{line}\n".encode("utf-8", errors=unencodable.HANDLER))
    stdout().flush()


def note(message: str) -> None:
    """Write a note to stderr, unless `--quiet` is on."""
    if not _quiet:
        _line(message, "dim")


def say(message: str) -> None:
    """Write to stderr what the user asked to be told, with or without `--quiet`."""
    _line(message, "dim")


def error(message: str) -> None:
    """Tell the user what went wrong, on stderr."""
    _line(f"llm: {message}", "red")


def _line(message: str, style: str) -> None:
    if sys.stderr is None:
        return
    message = _broken_at_words(visible(message))
    # Plain text without colors needs no Rich, whose import would slow down the quickest commands.
    if not shows_color(sys.stderr):
        sys.stderr.write(f"{message}\n")
        return
    from rich.text import Text

    console_err().print(Text(message, style=style), soft_wrap=True)


def _broken_at_words(message: str) -> str:
    """`message` in lines that a terminal need not break, which would do it within words.

    A word that is longer than a line stays whole: a path is there to be copied.
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
    # Asked for by --color where no terminal says what it can: the palette that every pager and terminal knows.
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
