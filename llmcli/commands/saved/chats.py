"""`llm chats`: the conversations that `llm chat` has saved; its search also reads the runs of `llm generate --log`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.commands.shared.completion import CHATS
from llmcli.commands.shared.prompt_input import argument_text
from llmcli.commands.shared.saved_conversations import (
    Format,
    print_conversation,
    readable_conversations,
    remove_with_title,
)
from llmcli.errors import UsageError
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
    rows = [_row(path.stem, tree) for path, tree in readable_conversations()]
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


@app.command("search")
def search_chats(
    texts: Annotated[
        list[str],
        typer.Argument(metavar="TEXT...", help="What a message must contain, in any case; all of several texts."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array of the messages found.")] = False,
) -> None:
    """Find the messages of saved conversations and kept runs that contain a text, the latest conversation first."""
    from llmcli.conversations.search import TextQuery
    from llmcli.conversations.store import ANY, ConversationKind
    from llmcli.views.reports.found_messages import FoundMessage, found_json, found_line, found_text

    try:
        query = TextQuery([argument_text(text, "TEXT") for text in texts])
    except ValueError:
        raise UsageError("There is nothing to search for: a text is empty.") from None
    found = [
        FoundMessage(path.stem, "run" if path.parent.name == ConversationKind.RUN.value else "chat", match)
        for path, tree in readable_conversations(ANY)
        for match in query.matches(tree)
    ]
    if as_json:
        terminal.write_line(json_text([found_json(each) for each in found], indent=2))
        return
    if not found:
        terminal.note("No saved conversation contains that.")
    if not terminal.shows_color(sys.stdout):
        for each in found:
            terminal.write_line(found_line(each))
        return
    columns = terminal.size(sys.stdout).columns if terminal.is_terminal(sys.stdout) else terminal.MOST_COLUMNS
    for each in found:
        terminal.console_out().print(found_text(each, columns=columns), soft_wrap=True)


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
    from llmcli.conversations.store import ANY, find_conversation

    print_conversation(find_conversation(name, ANY), form)


def _row(name: str, tree: Tree) -> dict[str, object]:
    return {
        "id": name,
        "time": tree.begin.time if tree.begin else None,
        "model": tree.settings.model if tree.settings else "",
        "messages": len(tree.path()),
        "title": " ".join(tree.title().split())[:80],
    }
