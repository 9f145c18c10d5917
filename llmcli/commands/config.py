"""`llm config`: every setting of a command, and where its value comes from."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer

from llmcli.commands.shared.options.flags import only, with_options
from llmcli.commands.shared.options.output import ViewOptions
from llmcli.commands.shared.options.sampling import FILTERS
from llmcli.commands.shared.options.terminal import TerminalOptions
from llmcli.errors import LlmcliError, UsageError
from llmcli.paths import settings_path
from llmcli.views.terminal import terminal

SCHEMA = "llmcli.config/1"
_SOURCES = {"COMMANDLINE": "flag", "ENVIRONMENT": "variable", "DEFAULT_MAP": "file"}

_CHANGE_WORDS = ("set", "get", "unset", "add", "remove", "path")


@dataclass(frozen=True)
class Setting:
    """One setting of a command."""

    name: str
    flag: str
    value: object
    source: str
    """"flag", "variable", "file", "model" or "default"."""
    where: str
    """The flag, the variable, the file, or the model that recommends it; empty for a default."""


@with_options
def config(
    context: typer.Context,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="[COMMAND] [FLAGS]...", help="A command and its flags. Default: generate."),
    ] = None,
    *,
    view_options: Annotated[ViewOptions, only("as_json")],
    terminal_options: Annotated[TerminalOptions, only("color")],
) -> None:
    """Show each setting of a command and where its value comes from: flag, variable, file, model or default."""
    name, parsed = _parsed(context, command or ["generate"])
    settings = [_setting(parsed, parameter) for parameter in parsed.command.params if _is_setting(parameter)]
    path = settings_path()
    if any(setting.name == "temperature" for setting in settings):
        settings = _with_recommendations(settings)
    if view_options.as_json:
        from llmcli.views.terminal.to_json import json_line

        value = {"command": name, "file": str(path), "file_exists": path.is_file(), "settings": settings}
        terminal.write_line(json_line(SCHEMA, value))
        return
    from llmcli.views.reports.settings import settings_table

    rows = [(setting.flag, _shown(setting.value), setting.source, setting.where) for setting in settings]
    terminal.console_out().print(settings_table(rows))
    file = f"{path}{'' if path.is_file() else ' (no such file; it is optional)'}"
    terminal.say(f"{file}; a flag wins over a variable, and a variable over the file.")


def _parsed(context: typer.Context, words: list[str]) -> tuple[str, Any]:
    """The command that `words` begin with, and its context as if it had been called with the rest of them."""
    parent: Any = context.find_root()
    found: Any = parent.command
    names: list[str] = []
    while hasattr(parent.command, "commands"):
        known = parent.command.commands
        if not words or words[0] not in known:
            if not names and words and (words[0] in _CHANGE_WORDS or _is_setting_name(known, words[0])):
                raise UsageError(
                    f"llm config only shows settings. To change one, edit {settings_path()}: "
                    "a line such as temperature = 0.5 holds for all commands. See llm help usage."
                )
            asked = " ".join(["llm", *names, *words[:1]])
            listed = sorted(each for each, one in known.items() if not one.hidden)
            raise UsageError(f"{asked!r} is no command with settings; there are {', '.join(listed)}.")
        names.append(words[0])
        found, words = known[words[0]], words[1:]
        if not hasattr(found, "commands"):
            break
        parent = type(parent)(found, info_name=names[-1], parent=parent)
    # Required arguments are missing here; `resilient_parsing` accepts that. Elsewhere wrong values are errors.
    needs = any(parameter.required for parameter in found.params)
    return " ".join(names), found.make_context(names[-1], list(words), parent=parent, resilient_parsing=needs)


def _is_setting_name(commands: Any, word: str) -> bool:
    """Whether any command has a setting of this name."""
    name = word.partition("=")[0].replace("-", "_")
    return any(parameter.name == name for command in commands.values() for parameter in command.params)


def _is_setting(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "option" and parameter.name != "help")


def _setting(parsed: Any, parameter: Any) -> Setting:
    found = parsed.get_parameter_source(parameter.name)
    source = _SOURCES.get(getattr(found, "name", ""), "default")
    where = ""
    flag = next((option for option in parameter.opts if option.startswith("--")), parameter.opts[0])
    if source == "flag":
        where = flag
    elif source == "variable":
        listed = parameter.envvar if isinstance(parameter.envvar, list | tuple) else [parameter.envvar]
        where = next((name for name in listed if name and name in os.environ), "")
    elif source == "file":
        where = str(settings_path())
    return Setting(parameter.name, flag, parsed.params.get(parameter.name), source, where)


def _with_recommendations(settings: list[Setting]) -> list[Setting]:
    """Fill in unset sampling settings: the model's recommendation, if it is on this machine, or our default."""
    from llmcli.engine import SamplingParams

    model = next((setting.value for setting in settings if setting.name == "model"), None)
    given = [setting.name for setting in settings if setting.value is not None and setting.name in FILTERS]
    name, recommended = _recommended(model if isinstance(model, str) else None, given)
    defaults = SamplingParams()
    result = []
    for setting in settings:
        if setting.source == "default" and setting.value is None and setting.name in FILTERS:
            if setting.name in recommended:
                setting = replace(setting, value=recommended[setting.name], source="model", where=name)
            else:
                setting = replace(setting, value=getattr(defaults, setting.name))
        result.append(setting)
    return result


def _recommended(model: str | None, given: Collection[str]) -> tuple[str, dict[str, float]]:
    from llmcli.hub.resolve import resolve

    try:
        path = resolve(model, fetch=False)
        from llmcli.checkpoint.checkpoint import open_checkpoint
        from llmcli.engine.sampling.recommendations import usable_recommendations

        checkpoint = open_checkpoint(path)
        return checkpoint.name, usable_recommendations(checkpoint.read_sampling_defaults(), given)
    except LlmcliError as error:
        terminal.say(f"What the model recommends is not known: {error}")
        return "", {}


def _shown(value: object) -> str:
    if value in (None, "", [], ()):
        return "-"
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
