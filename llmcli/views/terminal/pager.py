"""Show long text on a terminal through a pager."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Sequence

from llmcli.views.terminal import terminal
from llmcli.views.terminal.unencodable import HANDLER


def show(lines: Sequence[str], *, paged: bool = True) -> None:
    """Write `lines` to the terminal on standard output; if `paged` and they do not fit the screen, through a pager.

    The pager is the command in `PAGER`, else `less`. With `NO_PAGER`, an empty `PAGER`, or a pager that does not
    start, the lines are written directly. `lines` must have no escape sequences except colors.
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
    """Show `text` with the pager `command`; returns whether it could be started."""
    # -R passes colors through; not set if the user has chosen options for less.
    environment = {"LESS": "-R", **os.environ}
    try:
        pager = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
    except OSError:
        return False
    # Leave Ctrl-C to the pager, where it stops a search.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pager.communicate(text)
    finally:
        signal.signal(signal.SIGINT, handler)
    return True
