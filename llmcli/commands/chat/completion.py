"""Tab completion in a chat: slash commands and their arguments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

if TYPE_CHECKING:
    from llmcli.commands.chat.slash_command import Command


class CommandCompleter(Completer):
    """Completes the name of a slash command at the beginning of a message, and the arguments of some commands."""

    def __init__(self, commands: Mapping[str, Command]) -> None:
        self._commands = commands
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Completions of the text before the cursor."""
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, space, argument = text[1:].partition(" ")
        if not space:
            yield from _beginning_with(name, [f"{each} " for each in self._commands])
            return
        command = self._commands.get(name)
        if command is None:
            return
        choices = [] if command.choices is None else list(_beginning_with(argument, command.choices()))
        yield from choices
        # Paths only if no known name begins with the typed text.
        if command.takes_file and not choices:
            yield from self._paths.get_completions(Document(argument, len(argument)), complete_event)


def _beginning_with(begun: str, words: Iterable[str]) -> Iterator[Completion]:
    for word in words:
        if word.startswith(begun):
            yield Completion(word, start_position=-len(begun))
