"""One slash command."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from llmcli.errors import UsageError


@dataclass(frozen=True)
class Command:
    """What `/name argument` does."""

    name: str
    run: Callable[[str], None]
    """Given the argument without spaces around it; empty if there is none."""
    what: str
    """One line for /help."""
    argument: str = ""
    """What it is given, for /help."""
    choices: Callable[[], Iterable[str]] | None = None
    """What Tab proposes as its argument."""
    takes_file: bool = False
    """Tab proposes files."""


def named(*words: str) -> Callable[[], Iterable[str]]:
    """Choices that are always the same."""
    return lambda: words


def obey(commands: Mapping[str, Command], text: str) -> None:
    """Run the command that `text` names, without its slash.

    Raises:
        UsageError: there is no such command.
    """
    name, _, argument = text.partition(" ")
    if name not in commands:
        near = difflib.get_close_matches(name, commands, n=1)
        hint = f"Did you mean /{near[0]}?" if near else "/help lists them."
        raise UsageError(f"There is no command /{name}. {hint} For a message that begins with a slash, write //.")
    commands[name].run(argument.strip())


def whole_number(text: str, what: str) -> int:
    """`text` as a number.

    Raises:
        UsageError: it is none; `what` says what it should be.
    """
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{text!r} is not {what}.") from None
