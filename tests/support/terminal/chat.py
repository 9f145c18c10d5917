"""`llm chat` at the other end of a pseudo-terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect

from tests.support.faults.run import environment as environment_of
from tests.support.forked import on_terminal

# prompt_toolkit turns bracketed paste on when it begins to read a line.
READY = "\x1b[?2004h"


@contextmanager
def chatting(
    tmp_path: Path,
    model: Path,
    *arguments: str,
    size: tuple[int, int] = (40, 200),
    plain: bool = True,
    real: bool = False,
    **environment: str,
) -> Iterator[pexpect.spawn]:
    """A chat with `model` that waits for its first message; its data are below `tmp_path`.

    It is forked from a process with everything imported, unless `real`.
    """
    env = {
        **environment_of(tmp_path),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "TERM": "xterm",
        "PROMPT_TOOLKIT_NO_CPR": "1",
        **environment,
    }
    command = ["chat", "-m", str(model), "-t", "0", *(["--plain"] if plain else []), *arguments]
    child = on_terminal(command, env, size=size, real=real, timeout=30, encoding="utf-8")
    try:
        child.expect("lists the commands")
        child.expect_exact("> " if env["TERM"] == "dumb" else READY)
        yield child
    finally:
        child.close(force=True)


def leave(child: pexpect.spawn) -> None:
    """Ctrl-D, once the program waits for a message; typed before, it would be lost with the terminal's mode."""
    child.expect_exact(READY)
    child.sendeof()
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0
