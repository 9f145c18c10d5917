"""Long text on a terminal, a screen at a time."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Sequence

from llmcli.views.terminal import terminal
from llmcli.views.terminal.unencodable import HANDLER


def show(lines: Sequence[str], *, paged: bool = True) -> None:
    """Write `lines` to standard output, a terminal: if `paged`, through the pager when they do not fit on the screen.

    The pager is the command in `PAGER`, else `less`. `NO_PAGER`, an empty `PAGER`, or a pager that does not start: the
    lines are written as they are. `lines` hold no escape sequences but colors.
    """
    stdout = terminal.stdout()
    text = "".join(f"{line}\n" for line in lines).encode(stdout.encoding, errors=HANDLER)
    command = _command() if paged and len(lines) >= terminal.size(stdout).lines else []
    if not command or not _shown_by(command, text):
        stdout.buffer.write(text)
        stdout.flush()


def _command() -> list[str]:
    if os.environ.get("NO_PAGER"):
        return []
    try:
        return shlex.split(os.environ.get("PAGER", "less"))
    except ValueError:
        return []


def _shown_by(command: list[str], text: bytes) -> bool:
    """Whether `command` could be started; it has then shown `text`."""
    # R lets colors through; set unless the user has chosen options for less.
    environment = {"LESS": "-R", **os.environ}
    try:
        pager = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
    except OSError:
        return False
    # Ctrl-C is the pager's: it stops a search there.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pager.communicate(text)
    finally:
        signal.signal(signal.SIGINT, handler)
    return True
