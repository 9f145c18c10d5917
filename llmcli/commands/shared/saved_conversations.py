"""Read, print and delete saved conversations: for `llm chats`, `llm log` and `llm stats`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llmcli.errors import LlmcliError
from llmcli.text.chat_template.json_text import json_text
from llmcli.views.terminal import terminal
from llmcli.views.terminal.sanitize import visible

if TYPE_CHECKING:
    from llmcli.conversations.store import ConversationKind
    from llmcli.conversations.tree import Tree


class Format(str, Enum):
    """The format of a printed conversation."""

    JSON = "json"
    MARKDOWN = "markdown"


def readable_conversations(kinds: Sequence[ConversationKind] | None = None) -> Iterator[tuple[Path, Tree]]:
    """The file and content of each conversation of `kinds`, by default chats, the one last written to first.

    A note on stderr names each damaged file, which is left out.
    """
    from llmcli.conversations.store import ConversationKind, conversation_files, read_conversation

    for path in conversation_files(kinds or (ConversationKind.CHAT,)):
        try:
            yield path, read_conversation(path)[0]
        except LlmcliError as error:  # noqa: PERF203
            terminal.note(str(error))


def print_conversation(path: Path, form: Format, *, details: bool = False) -> None:
    """Print the conversation in a file; with `details`, the Markdown has the settings and sizes of each reply.

    Raises:
        LlmcliError: the file cannot be read, or is damaged.
    """
    from llmcli.conversations.export import as_json, as_markdown
    from llmcli.conversations.store import read_conversation

    tree, damage = read_conversation(path)
    if damage:
        terminal.note(damage)
    text = as_markdown(tree, details=details) if form is Format.MARKDOWN else json_text(as_json(tree), indent=2)
    terminal.write_line(text.rstrip("\n"))


def remove_with_title(path: Path, *, yes: bool) -> None:
    """Delete one conversation, after asking on a terminal unless `yes`; the question shows its title.

    Raises:
        typer.Exit: the user refused.
    """
    title = title_of(path)
    remove_conversations([path], what=f"{path.stem} ({title})" if title else path.stem, yes=yes)


def title_of(path: Path) -> str:
    """The first message of the conversation in a file as one line of at most 80 characters; empty if it is damaged."""
    from llmcli.conversations.store import read_conversation

    try:
        return " ".join(read_conversation(path)[0].title().split())[:80]
    except LlmcliError:
        return ""  # a damaged conversation can be removed too


def remove_conversations(paths: Sequence[Path], *, what: str, yes: bool) -> None:
    """Delete files; without `yes`, a user at a terminal is asked first, and `what` names the files.

    Raises:
        LlmcliError: a file cannot be removed; the others are.
        typer.Exit: the user said no.
    """
    from llmcli.conversations.store import remove_conversation

    if not yes and terminal.is_terminal(sys.stdin):
        # Not `typer.confirm`: even with err=True it writes a space to stdout.
        typer.echo(visible(f"Remove {what}? [y/N] "), err=True, nl=False)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            typer.echo("Nothing was removed.", err=True)
            raise typer.Exit(1)
    kept: list[LlmcliError] = []
    for path in paths:
        try:
            remove_conversation(path)
        except LlmcliError as error:  # noqa: PERF203
            kept.append(error)
    for one in kept[1:]:
        terminal.error(str(one))
    if kept:
        raise kept[0]
    typer.echo(visible(f"Removed {what}."), err=True)
