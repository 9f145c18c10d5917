"""The line a person types their messages on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from llmcli.views import terminal

if TYPE_CHECKING:
    from prompt_toolkit.history import History


def keyboard_lines() -> Iterator[str]:
    """Each line typed, with editing and a history that outlasts the program; ends at Ctrl-D.

    When standard input is a pipe, the keyboard is asked directly; without any terminal there are no lines.
    """
    with ExitStack() as stack:
        if not sys.stdin or not sys.stdin.isatty():
            try:
                tty: TextIO = stack.enter_context(open("/dev/tty", encoding="utf-8"))  # noqa: PTH123 (a device, not a file)
            except OSError:
                return
        else:
            tty = sys.stdin
        from prompt_toolkit import PromptSession
        from prompt_toolkit.input import create_input

        session: PromptSession[str] = PromptSession(history=_history(), input=create_input(tty))
        while True:
            try:
                line = session.prompt("> ")
            except KeyboardInterrupt:
                terminal.note("Ctrl-D or /exit leaves.")
                continue
            except EOFError:
                return
            yield line


def _history() -> History:
    import platformdirs
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    path = Path(platformdirs.user_data_dir("llmcli")) / "history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with path.open("a+", encoding="utf-8"):
            return FileHistory(str(path))
    except OSError as error:
        terminal.note(f"Your messages will not be remembered: {path} cannot be written ({error.strerror}).")
        return InMemoryHistory()
