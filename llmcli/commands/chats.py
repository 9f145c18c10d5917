"""`llm chats`: the conversations that `llm chat` has saved."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.commands.shared.completion import CHATS
from llmcli.commands.shared.saved_conversations import Format, print_conversation, remove_with_title
from llmcli.errors import LlmcliError
from llmcli.text.chat_template.json_text import json_text
from llmcli.views.terminal import terminal
from llmcli.views.terminal.fit import shortened

if TYPE_CHECKING:
    from llmcli.conversations.tree import Tree

app = typer.Typer(name="chats", help="List, show, export and delete saved conversations.", no_args_is_help=True)

Id = Annotated[
    str,
    typer.Argument(
        metavar="ID", autocompletion=CHATS, help="An id that `llm chats list` shows, or its beginning or end."
    ),
]


@app.command("list")
def list_chats(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array instead of a table.")] = False,
) -> None:
    """List the saved conversations, latest first. `llm chat --resume ID` continues one."""
    from llmcli.conversations.store import conversation_files, read_conversation

    def row(path: Path) -> dict[str, object] | None:
        try:
            return _row(path.stem, read_conversation(path)[0])
        except LlmcliError as error:
            terminal.note(str(error))
            return None

    rows = [found for path in conversation_files() if (found := row(path)) is not None]
    if as_json:
        terminal.write_line(json_text(rows, indent=2))
        return
    if not rows:
        terminal.note("No conversation has been saved yet.")
    widths = [max((len(str(each[key])) for each in rows), default=0) for key in ("messages", "model")]
    for each in rows:
        messages, model = str(each["messages"]).rjust(widths[0]), str(each["model"]).ljust(widths[1])
        line = f"{each['id']}  {messages} messages  {model}  {each['title']}"
        is_shown = terminal.is_terminal(sys.stdout)
        terminal.write_line(shortened(line, terminal.size(sys.stdout).columns) if is_shown else line)


@app.command("show")
def show_chat(conversation: Id) -> None:
    """Print a conversation as Markdown."""
    _export(conversation, Format.MARKDOWN)


@app.command("export")
def export_chat(
    conversation: Id,
    form: Annotated[Format, typer.Option("--format", "-f", help="Write JSON or Markdown.")] = Format.JSON,
) -> None:
    """Write a conversation to standard output as JSON or Markdown."""
    _export(conversation, form)


@app.command("rm")
def remove_chat(
    conversation: Id,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
) -> None:
    """Delete a saved conversation."""
    from llmcli.conversations.store import find_conversation

    path = find_conversation(conversation)
    remove_with_title(path, yes=yes)


def _export(name: str, form: Format) -> None:
    from llmcli.conversations.store import find_conversation

    print_conversation(find_conversation(name), form)


def _row(name: str, tree: Tree) -> dict[str, object]:
    return {
        "id": name,
        "time": tree.begin.time if tree.begin else None,
        "model": tree.settings.model if tree.settings else "",
        "messages": len(tree.path()),
        "title": " ".join(tree.title().split())[:80],
    }
