"""Show, save, load and list conversations: `/history /save /load /sessions`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from llmcli.commands.chat.branches import messages, preview
from llmcli.commands.chat.keyboard import PROMPT
from llmcli.commands.chat.session import ChatSession
from llmcli.commands.chat.slash_command import Command
from llmcli.commands.shared.prompt_input import decode_input
from llmcli.conversations.export import as_json, as_markdown, import_json
from llmcli.conversations.live_conversation import LiveConversation
from llmcli.conversations.store import conversation_files, find_conversation, read_conversation
from llmcli.conversations.tree import Node, Tree
from llmcli.errors import LlmcliError, UsageError
from llmcli.sizes import size
from llmcli.text.chat_template.json_text import json_text
from llmcli.views.terminal import terminal
from llmcli.views.terminal.colors import GREEN
from llmcli.views.terminal.fit import shortened

_LARGEST_BYTES = 64 << 20
_LISTED = 20
# Cells of a model's name in a list.
_LONGEST_MODEL = 30


class Sessions:
    """The commands that write, read and list conversations."""

    def __init__(self, session: ChatSession) -> None:
        self._session = session

    def commands(self) -> list[Command]:
        """The slash commands of this group."""
        return [
            Command("history", self._history, "the conversation so far"),
            Command("sessions", self._sessions, "the last conversations; /load continues one"),
            Command("save", self._save, "write the conversation as Markdown, or as .json", "FILE", takes_file=True),
            Command("load", self._load, "continue a .json file or one of /sessions", "FILE|ID", _ids, takes_file=True),
        ]

    def _history(self, _argument: str) -> None:
        nodes = self._session.live.tree.path()
        if not nodes:
            raise UsageError("Nothing has been said yet.")
        show_messages(nodes)

    def _sessions(self, _argument: str) -> None:
        paths = conversation_files()
        for path in paths[:_LISTED]:
            here = ">" if path == self._session.saved_as() else " "
            try:
                about = summary(read_conversation(path)[0], terminal.row_width())
            except LlmcliError as error:
                about = f"({error})"
            self._session.say(shortened(f"{here}{path.stem}  {about}", terminal.row_width()))
        if not paths:
            self._session.say("No conversation has been saved.")

    def _save(self, argument: str) -> None:
        if not argument:
            raise UsageError("/save needs the name of a file.")
        tree = self._session.live.tree
        path = Path(argument).expanduser()
        is_json = path.suffix.lower() == ".json"
        text = json_text(as_json(tree), indent=2) + "\n" if is_json else as_markdown(tree)
        try:
            with path.open("x", encoding="utf-8", errors="replace") as file:
                try:
                    file.write(text)
                    file.flush()
                except OSError:
                    # A partial file would make the next /save fail with "exists".
                    path.unlink(missing_ok=True)
                    raise
        except FileExistsError:
            raise UsageError(f"{argument} exists; give the name of a new file.") from None
        except OSError as error:
            raise UsageError(f"{argument} cannot be written: {error.strerror}.") from error
        self._session.note(f"Written to {argument}.")

    def _load(self, argument: str) -> None:
        if not argument:
            raise UsageError("/load needs the name of a file, or of a conversation; /sessions lists them.")
        session = self._session
        path = Path(argument).expanduser()
        if path.is_file():
            live = _imported(path, session)
        else:
            found = find_conversation(argument)
            if found == session.saved_as():
                raise UsageError("That is the conversation you are in.")
            live, fault = LiveConversation.resume(found, on_fault=session.note)
            if fault:
                session.note(fault)
        session.change_conversation(live)
        introduce(session)


def summary(tree: Tree, columns: int = 60) -> str:
    """One line about a conversation: its length, model and title, which takes at most `columns` cells."""
    model = shortened(tree.settings.model, _LONGEST_MODEL) if tree.settings else "?"
    return f"{messages(len(tree.path()))}, {model}: {preview(tree.title(), columns)}"


def introduce(session: ChatSession) -> None:
    """Show the end of a continued conversation, and note whether a reply is missing or cut off."""
    tree = session.live.tree
    session.note(f"Continuing {summary(tree)}")
    path, pending = tree.path(), tree.unanswered()
    if not terminal.is_quiet():
        show_messages(path[-1:] if pending is not None else path[-2:])
    if tree.nodes and not path:
        session.note("It was begun anew; /branches lists what was said before.")
    if pending is not None:
        session.note("Your last message has no reply yet. /retry generates one.")
    elif path and path[-1].is_cut:
        session.note("The last reply was cut off there.")
    if len(path) > 2:
        session.note("/history prints all of it.")


def show_messages(nodes: Sequence[Node]) -> None:
    """Print messages in full on stderr as they were shown: the user's with > before each line, replies unchanged."""
    from rich.text import Text

    # On a terminal lines are broken at spaces; elsewhere they stay whole.
    whole = not terminal.is_terminal(sys.stderr)
    for node in nodes:
        if node.is_reply:
            terminal.say(f"{node.model}:")
            terminal.console_err().print(Text(f"{node.text.strip(chr(10))}\n"), soft_wrap=whole)
            continue
        for line in node.text.strip("\n").split("\n"):
            question = Text.assemble((PROMPT, f"bold {GREEN}"), (line, "bold"))
            terminal.console_err().print(question, soft_wrap=whole)


def _imported(path: Path, session: ChatSession) -> LiveConversation:
    """Start a new conversation with the messages in a file."""
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise UsageError(f"{path} is not a conversation: it is larger than {size(_LARGEST_BYTES)}.")
        text = decode_input(path.read_bytes(), str(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    if path.suffix == ".jsonl":
        tree = read_conversation(path)[0]
        nodes, system = tree.path(), tree.settings.system if tree.settings else None
    else:
        nodes, system = import_json(text, source=str(path))
    live = session.live.new_conversation()
    session.conversation.system = system
    live.adopt(nodes)
    return live


def _ids() -> list[str]:
    return [path.stem for path in conversation_files()[:_LISTED]]
