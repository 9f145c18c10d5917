"""What is typed during work is not shown in the output, and the terminal's mode is restored, whatever ends the work.

The work is a script of a few lines; its standard error is a pseudo-terminal.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

# Starts processes on pseudo-terminals.
pytestmark = pytest.mark.slow

WORK = """
import os, signal, sys, time
from llmcli.views.terminal.progress import progress_bar

def end(*_):
    raise SystemExit(143)

signal.signal(signal.SIGTERM, end)
try:
    with progress_bar("working", unit="steps", delay_s=0.0) as report:
        report("working", 1, 9)
        print(f"pid={os.getpid()}", flush=True)
        while True:
            time.sleep(0.01)
except KeyboardInterrupt:
    sys.exit(130)
finally:
    print("the end", flush=True)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "work.py"
    path.write_text(WORK)
    return path


@pytest.fixture
def shell(script: Path) -> Iterator[pexpect.spawn]:
    """A shell with job control that does not change the terminal's mode itself."""
    child = pexpect.spawn("/bin/sh", ["-i"], env=env(PS1="ready> ", ENV=""), timeout=60, encoding="utf-8")
    try:
        child.expect_exact("ready> ")
        yield child
    finally:
        child.close(force=True)


def env(**more: str) -> dict[str, str]:
    return {**os.environ, "TERM": "xterm", "NO_COLOR": "1", **more}


def echoes(child: pexpect.spawn) -> bool:
    """Whether the terminal shows what is typed."""
    return bool(termios.tcgetattr(child.child_fd)[3] & termios.ECHO)


def becomes(child: pexpect.spawn, *, echoing: bool) -> bool:
    """Whether the terminal shows what is typed, or not, before long."""
    last = time.monotonic() + 30
    while echoes(child) != echoing and time.monotonic() < last:
        time.sleep(0.01)
    return echoes(child) == echoing


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_typed_text_is_not_shown_but_kept_for_the_shell(
    shell: pexpect.spawn, script: Path, number: signal.Signals, code: int
) -> None:
    shell.sendline(f"{sys.executable} {script}; echo code=$?")
    shell.expect(r"pid=(\d+)")
    process = int(shell.match[1])
    shell.expect_exact("1/9 steps")
    assert becomes(shell, echoing=False)
    if number == signal.SIGINT:
        shell.sendintr()
    else:
        shell.send("typed")
        os.kill(process, number)
    shell.expect_exact("the end")
    assert "typed" not in shell.before and "^C" not in shell.before
    # The bar is erased, and the cursor is shown again.
    assert re.search(r"\x1b\[2K$", shell.before) and "\x1b[?25h" in shell.before
    shell.expect_exact(f"code={code}")
    shell.expect_exact("ready> ")
    assert echoes(shell)
    if number != signal.SIGINT:
        shell.sendline()
        shell.expect("typed: .*not found")


def test_a_stopped_program_leaves_the_terminal_as_it_was(shell: pexpect.spawn, script: Path) -> None:
    shell.sendline(f"{sys.executable} {script}")
    shell.expect_exact("1/9 steps")
    assert becomes(shell, echoing=False)
    shell.sendcontrol("z")
    shell.expect_exact("ready> ")
    assert echoes(shell) and "\x1b[2K\x1b[?25h" in shell.before
    shell.sendline("fg")
    shell.expect_exact("1/9 steps")
    assert becomes(shell, echoing=False)
    shell.sendintr()
    shell.expect_exact("the end")
    shell.expect_exact("ready> ")
    assert echoes(shell)


def test_a_program_in_the_background_leaves_the_terminal_alone(shell: pexpect.spawn, script: Path) -> None:
    shell.sendline(f"{sys.executable} {script} &")
    shell.expect_exact("1/9 steps")
    assert echoes(shell)
    shell.sendline("kill %1; wait %1; echo code=$?")
    shell.expect_exact("the end")
    shell.expect_exact("code=143")
