"""`llm generate --json-schema`, `--regex` and `--grammar`: replies of a given form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llmcli.commands.shared.options.form import FormOptions
from llmcli.commands.shared.prompt_input import argument_text, decoded_text
from llmcli.errors import LlmcliError, UsageError
from llmcli.sizes import size
from llmcli.text.reasoning import TAGS
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.commands.generate.source import ReplySource
    from llmcli.engine import Event, Finish
    from llmcli.engine.guided.grammar import Rule

_LARGEST_BYTES = 16 << 20


class IncompleteFormError(LlmcliError):
    """A reply ended before it had the requested form."""


def given_rule(form: FormOptions, *, prefill: str) -> Rule | None:
    """Return the requested form, checked before a model is loaded; None if the options request none.

    Raises:
        UsageError: several forms are requested, the form is invalid or no text of it begins with `prefill`, or the
            library for it is not installed.
    """
    if form.json_schema is form.regex is form.grammar is None:
        return None
    from llmcli.engine.guided.grammar import Rule

    free = form.free_whitespace
    schema = None if form.json_schema is None else _contents(form.json_schema, "--json-schema", inline="{")
    lark = None if form.grammar is None else _contents(form.grammar, "--grammar", inline=":")
    rules = [
        *([] if schema is None else [Rule("json-schema", schema, free_whitespace=free)]),
        *([] if form.regex is None else [Rule("regex", form.regex)]),
        *([] if lark is None else [Rule("grammar", lark, free_whitespace=free)]),
    ]
    if len(rules) > 1:
        raise UsageError("A reply has one form: give one of --json-schema, --regex and --grammar.")
    # A prefill with a thought cannot be checked here: only the model's vocabulary says where the thought ends.
    marks = any(mark in prefill for mark in (*TAGS, *TAGS.values(), "<|"))
    for warning in rules[0].check("" if marks else prefill):
        terminal.note(f"--{rules[0].kind}: {warning}")
    return rules[0]


def _contents(argument: str, option: str, *, inline: str) -> str:
    """The text of the file `argument`, or the argument itself if it contains `inline` and no such file exists."""
    path = Path(argument)
    if not _is_file(path):
        if inline not in argument:
            raise UsageError(f"There is no file {argument!r}.")
        return argument_text(argument, option)
    if path.stat().st_size > _LARGEST_BYTES:
        raise UsageError(f"{path} is larger than {size(_LARGEST_BYTES)}.")
    return decoded_text(path.read_bytes(), str(path))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # too long for a file name
        return False


def no_answer_message(finish: Finish) -> str:
    """The error message for a reply that has a thought but no answer."""
    ended = {
        "length": f"the {finish.stats.generated_tokens} tokens of -n were used up by the thought",
        "context": "the thought filled the context",
        "stop_string": "a --stop ended the thought",
    }.get(finish.reason, "the model ended the reply inside its thought")
    return f"The answer never began: {ended}. Allow more tokens with -n, or leave the thought out with --no-thinking."


class ConstrainedReply:
    """Shows a constrained reply: on a terminal as it arrives, in a pipe or file only once the form is complete."""

    def __init__(self, source: ReplySource, show: Callable[[Event], None] | None, *, hold: bool) -> None:
        """`show` is called with each event, unless it is None; with `hold` only at the end, for a complete reply."""
        self._source, self._show, self._hold = source, show, hold
        self._events: list[Event] = []
        self._is_noted = False

    def receive(self, event: Event) -> None:
        """Show one event, or keep it until `end`. Before the first, note if the form may never be complete."""
        if not self._is_noted and self._source.can_end is False:
            terminal.note(
                "No way to end a reply of this form was found. If it is not complete after -n tokens, there is none."
            )
        self._is_noted = True
        if self._hold:
            self._events.append(event)
        elif self._show is not None:
            self._show(event)

    def end(self, finish: Finish) -> None:
        """Show the kept events if the reply is complete.

        Raises:
            IncompleteFormError: the reply does not have the form; kept events are not shown.
            typer.Exit: the reply was interrupted.
        """
        if finish.reason == "interrupted":
            raise typer.Exit(130)
        if self._source.awaits_answer:
            raise IncompleteFormError(no_answer_message(finish))
        if finish.reason == "stop_string" or not self._source.complete:
            raise IncompleteFormError(
                f"The reply ended before it had the form that is asked for{', and is not shown' * self._hold}. "
                "Allow more tokens with -n, and give no --stop that can come inside it."
            )
        if self._show is not None:
            for event in self._events:
                self._show(event)
