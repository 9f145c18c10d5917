"""The place of the cursor, which a terminal tells on request through the keyboard."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from prompt_toolkit.input import create_input
from prompt_toolkit.input.typeahead import get_typeahead

from llmcli.commands.chat.keyboard import Keyboard


@contextmanager
def pseudo_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A pseudo-terminal as the standard streams; its other end."""
    master, slave = os.openpty()
    name = os.ttyname(slave)
    with Path(name).open() as reader, Path(name).open("w") as writer:
        monkeypatch.setattr(sys, "stdin", reader)
        monkeypatch.setattr(sys, "stdout", writer)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("PROMPT_TOOLKIT_NO_CPR", raising=False)
        yield master
    os.close(slave)
    os.close(master)


def answering(master: int, answer: bytes) -> threading.Thread:
    """A thread that sends `answer` when the terminal is asked for the cursor."""

    def answer_once() -> None:
        seen = b""
        while b"\x1b[6n" not in seen:
            seen += os.read(master, 100)
        os.write(master, answer)

    thread = threading.Thread(target=answer_once, daemon=True)
    thread.start()
    return thread


def test_the_cursor_is_told_and_what_is_typed_meanwhile_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    with pseudo_terminal(monkeypatch) as terminal, ExitStack() as stack:
        keyboard = Keyboard(stack)
        assert keyboard.cursor() is None, "only during a reply, while nothing is echoed"
        with keyboard.without_echo():
            thread = answering(terminal, b"hel\x1b[5;41Rlo")
            assert keyboard.cursor() == (4, 40)
            thread.join()
        assert "".join(key.data for key in get_typeahead(create_input(sys.stdin))) == "hello"


def test_a_silent_terminal_does_not_stop_a_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    with pseudo_terminal(monkeypatch) as terminal, ExitStack() as stack:
        keyboard = Keyboard(stack)
        with keyboard.without_echo():
            assert keyboard.cursor() is None
            monkeypatch.setenv("PROMPT_TOOLKIT_NO_CPR", "1")
            os.write(terminal, b"\x1b[5;41R")
            assert keyboard.cursor() is None
