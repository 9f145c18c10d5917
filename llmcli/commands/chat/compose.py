"""Messages from an editor or a file, and replies to the clipboard: `/edit /read /copy`."""

from __future__ import annotations

import base64
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from llmcli.commands.chat.session import ChatSession
from llmcli.commands.chat.slash_command import Command, named
from llmcli.commands.shared.prompt_input import decoded_text, read_plain_text
from llmcli.errors import LlmcliError, UsageError
from llmcli.views.terminal import terminal

# Most characters of base64 that common terminals accept for their clipboard (OSC 52).
_LARGEST_COPY = 74_994


class Composing:
    """The commands that bring text into and out of the chat."""

    def __init__(self, session: ChatSession) -> None:
        self._session = session

    def commands(self) -> list[Command]:
        """The slash commands of this group."""
        return [
            Command("edit", self._edit, "a message in $EDITOR; last: your last one", "[last]", named("last")),
            Command("read", self._read, "send a file along with your next message", "FILE", takes_file=True),
            Command("copy", self._copy, "copy the last reply to the clipboard, where the terminal can"),
        ]

    def _edit(self, argument: str) -> None:
        session = self._session
        if argument not in ("", "last"):
            raise UsageError("/edit opens an empty message, /edit last your last one.")
        text, after = "", None
        if argument:
            tree = session.live.tree
            path = tree.path()
            if not path:
                raise UsageError("Nothing has been said yet.")
            question = path[-2] if path[-1].is_reply else path[-1]
            text, after = question.text, question.after
        changed = edited(text)
        if not changed.strip() or changed == text:
            session.note("Nothing was sent.")
            return
        for line in changed.splitlines():
            session.note(f"> {line}")
        session.reply_to(changed, after=after)

    def _read(self, argument: str) -> None:
        if not argument:
            raise UsageError("/read needs the name of a file.")
        attach_text(self._session, argument, read_plain_text(argument))
        self._session.note("Enter alone sends it.")

    def _copy(self, _argument: str) -> None:
        _, answer = self._session.thought_and_answer()
        if not terminal.can_redraw(sys.stdout):
            raise UsageError("Only a terminal has a clipboard; standard output is none.")
        data = base64.b64encode(answer.encode("utf-8", errors="replace"))
        if len(data) > _LARGEST_COPY:
            raise UsageError("The reply is too long for the clipboard of a terminal. /save writes it to a file.")
        # OSC 52 of xterm's control sequences. The terminal does not confirm it.
        sys.stdout.write(f"\x1b]52;c;{data.decode()}\x07")
        sys.stdout.flush()
        self._session.note(f"{len(answer)} characters were given to the terminal's clipboard.")


def attach_text(session: ChatSession, name: str, text: str) -> None:
    """Attach the text of the file `name` to the next message, and note its length."""
    session.attached.append((name, text))
    tokens = len(session.loaded.tokenizer.encode(text, add_special_tokens=False))
    session.note(f"Read {name}, {tokens} tokens; it goes along with your next message.")


def edited(text: str) -> str:
    """Let the user edit `text` in an editor ($VISUAL, $EDITOR or vi); return the new text.

    Raises:
        LlmcliError: the editor cannot be started, or fails.
    """
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    descriptor, name = tempfile.mkstemp(prefix="llm-", suffix=".md")
    path = Path(name)
    try:
        os.close(descriptor)
        path.write_text(text, encoding="utf-8", errors="replace")
        try:
            # The editor inherits the standard streams.
            code = subprocess.run([*shlex.split(command), name], check=False).returncode
        except (OSError, ValueError) as error:
            raise LlmcliError(f"The editor {command!r} cannot be started: {error}. Set EDITOR to another.") from error
        if code:
            raise LlmcliError(f"The editor {command!r} failed with code {code}; nothing was sent.")
        return decoded_text(path.read_bytes(), "The message")
    finally:
        path.unlink(missing_ok=True)
