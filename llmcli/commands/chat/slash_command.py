"""A slash command: its name, function and help."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from llmcli.errors import UsageError


@dataclass(frozen=True)
class Command:
    """A slash command, typed as `/name argument`."""

    name: str
    run: Callable[[str], None]
    """Called with the argument, stripped of spaces; empty without one."""
    what: str
    """One line for /help."""
    argument: str = ""
    """The argument's placeholder in /help."""
    choices: Callable[[], Iterable[str]] | None = None
    """Tab completions of the argument."""
    takes_file: bool = False
    """Whether Tab completes file names."""


def named(*words: str) -> Callable[[], Iterable[str]]:
    """Make a function that returns fixed choices."""
    return lambda: words


def obey(commands: Mapping[str, Command], text: str) -> None:
    """Run the command in `text`, given without its slash.

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
    """Parse a whole number.

    Raises:
        UsageError: `text` is not a number; `what` is what the message says it should be.
    """
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{text!r} is not {what}.") from None
