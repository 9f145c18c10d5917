"""The window of a real terminal, tmux, is resized during a reply: no text is drawn twice, and none is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")]

TEXT = (
    "The City of Light, a tapestry of history woven from the very fabric of modern culture. Paris, a city that has "
    "been shaped by the relentless pursuit of innovation and **artistic expression**. From the ancient Roman era to "
    "the Renaissance, Paris has been a beacon of creativity, 世界世界 and all. The French Revolution, a pivotal moment "
    "in history, has left an indelible mark on the city's soul. Today it goes on.\n\n- and a list\n- of two items\n"
)
# Draws what it reads from one pipe as a chat does, and answers each line on another.
PROGRAM = """
import json, os, sys
from contextlib import ExitStack
from llmcli.commands.chat.keyboard import Keyboard
from llmcli.views.reply.markdown_stream import MarkdownStream
from llmcli.views.terminal.live_region import OpenLines

def write(text):
    sys.stdout.write(text)
    sys.stdout.flush()

with ExitStack() as stack, open(sys.argv[1]) as commands, open(sys.argv[2], "w") as answers:
    keyboard = Keyboard(stack)
    print("Before.")
    size = lambda: os.get_terminal_size(1)
    lines = OpenLines(write, size, least_pause_s=0, pauses=0, cursor=keyboard.cursor)
    stream = MarkdownStream(lines, None)
    with keyboard.without_echo():
        for line in commands:
            text = json.loads(line)
            if text is not None:
                stream.push(text) if text else stream.finish()
            answers.write(f"{size().columns}\\n")
            answers.flush()
"""


class Window:
    """A window of tmux in which a text is drawn piece by piece."""

    def __init__(self, folder: Path, columns: int, rows: int) -> None:
        self._tmux = ["tmux", "-S", str(folder / "socket"), "-f", "/dev/null"]
        pipes = [folder / "commands", folder / "answers"]
        for pipe in pipes:
            os.mkfifo(pipe)
        program = folder / "program.py"
        program.write_text(PROGRAM)
        self._run(
            "new-session", "-d", "-x", str(columns), "-y", str(rows), sys.executable, str(program), *map(str, pipes)
        )
        self._commands, self._answers = pipes[0].open("w"), pipes[1].open()

    def push(self, text: str | None) -> int:
        """Draw the next piece, and the end after an empty one; returns the columns that the program sees."""
        self._commands.write(json.dumps(text) + "\n")
        self._commands.flush()
        return int(self._answers.readline())

    def resize(self, columns: int, rows: int) -> None:
        self._run("resize-window", "-x", str(columns), "-y", str(rows))
        while self.push(None) != columns:
            pass

    def text(self) -> str:
        return self._run("capture-pane", "-p", "-S", "-1000")

    def type(self, text: str) -> None:
        self._run("send-keys", "-l", text)

    def close(self) -> None:
        self._run("kill-server")
        self._commands.close()
        self._answers.close()

    def _run(self, *arguments: str) -> str:
        done = subprocess.run([*self._tmux, *arguments], check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout


@contextmanager
def window(folder: Path, columns: int, rows: int) -> Iterator[Window]:
    opened = Window(folder, columns, rows)
    try:
        yield opened
    finally:
        opened.close()


def letters(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize(
    "sizes",
    [
        [(120, 30), (60, 30)],
        [(60, 30), (120, 30), (80, 20)],
        [(120, 30), (70, 30), (30, 12), (100, 30)],
        [(100, 24), (30, 24), (100, 24), (40, 24), (41, 24)],
        [(80, 24), (120, 10), (33, 40)],
    ],
)
def test_no_text_is_drawn_twice_when_the_window_is_resized(tmp_path: Path, sizes: list[tuple[int, int]]) -> None:
    words = TEXT.split(" ")
    with window(tmp_path, *sizes[0]) as terminal:
        for number, word in enumerate(words):
            step, since = divmod(number * len(sizes), len(words))
            if step and since < len(sizes):
                terminal.resize(*sizes[step])
            # The text typed meanwhile is not taken for an answer of the terminal.
            if number == len(words) // 2:
                terminal.type("typed ahead")
            terminal.push(f"{word} " if word is not words[-1] else word)
        terminal.push("")
        shown = letters(terminal.text())
    expected = letters(TEXT.replace("**", "").replace("- ", "• "))
    assert shown == f"Before.{expected}"
