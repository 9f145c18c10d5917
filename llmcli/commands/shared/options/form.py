"""Options for structured output (JSON schema, regular expression, grammar) and for a choice among given answers."""

import json
from dataclasses import dataclass
from typing import Annotated

from llmcli.commands.shared.options.flags import FORM, flag, text
from llmcli.errors import UsageError


@dataclass(frozen=True)
class FormOptions:
    """Structured output: the form that a reply must have."""

    json_schema: Annotated[
        str | None,
        flag(
            "--json-schema",
            metavar="FILE|JSON",
            panel=FORM,
            help="Write JSON that fits this schema.",
        ),
    ] = None
    regex: Annotated[
        str | None,
        flag(
            "--regex",
            metavar="REGEX",
            callback=text,
            panel=FORM,
            help="Match this regular expression in full.",
        ),
    ] = None
    grammar: Annotated[
        str | None,
        flag(
            "--grammar",
            metavar="FILE|TEXT",
            panel=FORM,
            help="Follow this grammar (Lark, llguidance).",
        ),
    ] = None
    free_whitespace: Annotated[
        bool,
        flag(
            "--free-whitespace",
            panel=FORM,
            help="Allow any spaces and newlines in JSON.",
        ),
    ] = False


@dataclass(frozen=True)
class ChoiceOptions:
    """The answers among which the model chooses."""

    choices: Annotated[
        list[str] | None,
        flag(
            "--choices",
            metavar="A,B,...",
            callback=text,
            panel=FORM,
            help="Print the most probable of these answers; repeatable.",
        ),
    ] = None
    min_prob: Annotated[
        float | None,
        flag(
            "--min-prob",
            metavar="P",
            panel=FORM,
            help="With --choices: exit with code 1 if the best answer's share is below P.",
        ),
    ] = None
    readable: Annotated[
        bool,
        flag(
            "--readable",
            env=False,
            panel=FORM,
            help="With --choices: use the readable PyTorch model, not the fast path.",
        ),
    ] = False

    def answers(self) -> list[str]:
        """The answers in the order given; empty without --choices.

        Each argument is a list separated by commas, whose items are stripped of spaces, or a JSON array of strings,
        which are kept unchanged.

        Raises:
            UsageError: an argument has another form, an answer is given twice, or --min-prob is invalid.
        """
        if self.min_prob is not None and not self.choices:
            raise UsageError("--min-prob is for --choices, and none are given.")
        if self.min_prob is not None and not 0 <= self.min_prob <= 1:
            raise UsageError(f"--min-prob must be from 0 to 1, not {self.min_prob}.")
        answers: list[str] = []
        for argument in self.choices or ():
            answers += _array(argument) if argument.lstrip().startswith("[") else map(str.strip, argument.split(","))
        for number, answer in enumerate(answers):
            if not answer:
                raise UsageError("One of the --choices is empty.")
            if answer in answers[:number]:
                raise UsageError(f"--choices gives {answer!r} twice.")
        if len(answers) == 1:
            raise UsageError("--choices needs at least two answers to choose from.")
        return answers


def _array(argument: str) -> list[str]:
    try:
        values = json.loads(argument)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise UsageError(f'--choices {argument} is not a JSON array of texts, as in ["a, b", "c"].')
    return values
