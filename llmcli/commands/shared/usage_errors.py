"""Advice for command lines that users of other tools try, and for invalid values in settings and variables."""

from __future__ import annotations

import os
import re
from typing import Any

import typer
from typer.core import TyperGroup

from llmcli.commands.shared.settings_file import wrong_value
from llmcli.errors import UsageError
from llmcli.paths import settings_path
from llmcli.views.terminal.colors import color_help

# Typer brings its own copy of Click since 0.21; before, this is Click's.
_ClickUsageError: Any = typer.BadParameter.__base__
_GENERATE = 'llm generate "..." answers one prompt'
_INSTEAD = {
    "run": f"{_GENERATE}, llm chat is a conversation; -m names the model of either",
    "ask": _GENERATE,
    "complete": f"{_GENERATE}, with --raw it continues a text",
    "models": "llm list shows the models on this machine",
    "ls": "llm list shows the models on this machine",
    "download": "llm pull MODEL fetches a model",
    "install": "llm pull MODEL fetches a model",
    "delete": "llm rm MODEL deletes a model",
    "remove": "llm rm MODEL deletes a model",
    "uninstall": "llm rm MODEL deletes a model",
    "info": "llm show MODEL describes a model",
    "history": "llm chats list shows the conversations",
    "logs": "llm log shows the runs that llm generate --log has kept, llm chats list the conversations",
    "settings": "llm config shows the settings",
    "tokenize": "llm inspect tokens TEXT shows the tokens of a text",
    "perplexity": "llm score FILE computes the perplexity of a text",
    "version": "llm --version prints the version",
}
_TEXTS = ("prompt", "text", "content")


class AdvisingGroup(TyperGroup):
    """The program's commands, with usage errors that say what to do instead where that is known."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options before the command; where help will be printed, choose its colors first."""
        if not args or {"-h", "--help"} & set(args) or isinstance(self.commands.get(args[-1]), TyperGroup):
            color_help()
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the named command.

        Raises:
            UsageError: the command line is invalid, and what to do instead is known.
        """
        try:
            return super().invoke(ctx)
        except _ClickUsageError as error:
            message = _setting(error) or _extra_words(error) or _model_flag(error)
            if message is None:
                color_help()
                raise
            raise UsageError(message) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that `args` begin with.

        Raises:
            UsageError: there is none, and what to do instead is known.
        """
        name = args[0]
        if name not in self.commands:
            _refuse_text(name)
            if name in _INSTEAD:
                raise UsageError(f"There is no command {name!r}; {_INSTEAD[name]}.")
        return super().resolve_command(ctx, args)


class PromptGroup(TyperGroup):
    """`llm prompt`, which answers no prompt, as a command of this name does elsewhere."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that `args` begin with.

        Raises:
            UsageError: they begin with a text of several words.
        """
        if args[0] not in self.commands:
            _refuse_text(args[0])
        return super().resolve_command(ctx, args)


def _refuse_text(name: str) -> None:
    """Raise `UsageError` for a text of several words in the place of a command."""
    if len(name.split()) > 1:
        raise UsageError(f"{name!r} is no command; {_GENERATE}.")


def _setting(error: Any) -> str | None:
    """The message for a wrong value that the settings file or a variable gives."""
    context, parameter = error.ctx, getattr(error, "param", None)
    if context is None or parameter is None:
        return None
    source = getattr(context.get_parameter_source(parameter.name), "name", "")
    if source == "ENVIRONMENT":
        names = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar
        variable = next((name for name in names if os.environ.get(name)), names[0])
        return f"The environment variable {variable} cannot be used: {error.message}"
    if source != "DEFAULT_MAP":
        return None
    return wrong_value(settings_path(), _command(context).split()[1], parameter.name, error.message)


def _extra_words(error: Any) -> str | None:
    """The message for a text of several words without quotes."""
    # An option among them is a misspelled one.
    if error.ctx is None or "unexpected extra argument" not in error.message or re.search(r"[( ]--", error.message):
        return None
    names = {parameter.name for parameter in error.ctx.command.params if parameter.param_type_name == "argument"}
    if names.isdisjoint(_TEXTS):
        return None
    return f'Put a text of several words in quotes, as in {_command(error.ctx)} "What is this?".'


def _model_flag(error: Any) -> str | None:
    """The message for -m where the model is an argument."""
    if error.ctx is None or getattr(error, "option_name", None) not in ("-m", "--model"):
        return None
    if not any(parameter.name in ("model", "name") for parameter in error.ctx.command.params):
        return None
    command = _command(error.ctx)
    return f"{command} takes the model without a flag: {command} MODEL."


def _command(context: Any) -> str:
    """How the command of a context is called, whatever the program was started as."""
    names = []
    while context.parent is not None:
        names.append(context.info_name)
        context = context.parent
    return " ".join(["llm", *reversed(names)])
