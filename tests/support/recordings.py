"""The pictures of real runs that the README shows: `python -m tests.support.recordings .github` writes them.

The replies are those of the starter model, which is downloaded if necessary.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from rich.text import Text

from llmcli.views.terminal.export import as_svg
from tests.support.terminal.chat import READY, chatting
from tests.support.terminal.emulator import Emulator

COLUMNS, ROWS = 92, 100
MESSAGES = ("Write a Python function is_even(n), and show how to use it.", "/why return")
PROMPT = ("What is a haiku? Give an example.", "-t", "0", "-n", "66")


def record_chat(model: Path) -> Text:
    """The terminal's content after a chat of `MESSAGES`."""
    emulator = Emulator(COLUMNS, ROWS)
    with (
        tempfile.TemporaryDirectory() as folder,
        chatting(Path(folder), model, size=(ROWS, COLUMNS), plain=False, TERM="xterm-256color") as child,
    ):
        for message in MESSAGES:
            child.sendline(message)
            # Pasted text is marked during a reply or an explanation, and at the next prompt.
            for _ in range(2):
                child.expect_exact(READY)
                emulator.write(child.before)
    return emulator.styled()


def main(folder: Path) -> None:
    """Write the pictures into `folder`."""
    llm = [sys.executable, "-m", "llmcli"]
    pulled = subprocess.run([*llm, "pull", "starter"], check=True, stdout=subprocess.PIPE, text=True)
    chat = as_svg(record_chat(Path(pulled.stdout.strip())), "llm chat", width=COLUMNS)
    (folder / "chat.svg").write_text(chat, encoding="utf-8")
    subprocess.run([*llm, "generate", *PROMPT, "--probs", "--svg", str(folder / "reply.svg")], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
