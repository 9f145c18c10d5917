"""`config.toml`: settings used where neither a flag nor an environment variable gives a value."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from llmcli.errors import UsageError
from llmcli.paths import settings_path
from llmcli.text.decode_bytes import text_from_bytes

# Parameters that cannot be set in the file because they belong to a single run.
_ARGUMENTS = {"prompt", "text", "file", "files", "continue_latest", "resume", "out", "fill_in", "samples"}
_LARGEST_BYTES = 16 << 20
# Former names of settings, and their names now.
_OTHER_NAMES = {"template": "chat_template"}


def read_own_toml(path: Path) -> dict[str, Any]:
    """Read one of the program's TOML files, with or without a byte order mark and with any line ends.

    `--encoding` does not apply to it, only to text for a model.

    Raises:
        OSError: it cannot be read.
        UsageError: it is not valid TOML, or not text in a known encoding.
    """
    # Imported here because most runs have no such file.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    text = text_from_bytes(path.read_bytes(), str(path), instead="Save it as UTF-8.")
    try:
        values: dict[str, Any] = tomllib.loads(text.replace("\r\n", "\n").replace("\r", "\n"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}.") from None
    return values


@dataclass(frozen=True)
class CommandsWithSettings:
    """The commands whose flags the settings file can set."""

    commands: tuple[Callable[..., None], ...]
    """Commands with a table of their function's name."""
    inspect_commands: Mapping[str, Callable[..., None]]
    """The commands of `llm inspect` by name, which share the table `[inspect]`."""


def default_map(known_commands: CommandsWithSettings) -> dict[str, dict[str, object]]:
    """Read the settings file: for each command with settings, the values by parameter (Click's `default_map`).

    Settings at the top of the file apply to every command that has them, those in a table such as `[chat]` to that
    command, and those in `[inspect]` to all commands of `llm inspect`. Names are those of the long flags, with - or _.

    Raises:
        UsageError: the file is too large, is not valid TOML, names an unknown setting, or gives a value of the wrong
            type. Texts are left to the command, which may parse a number from them.
    """
    path = settings_path()
    try:
        if not path.is_file():
            return {}
        if path.stat().st_size > _LARGEST_BYTES:
            raise UsageError(f"{path} is larger than any list of settings.")
        settings = read_own_toml(path)
    except OSError:
        # Run without settings if the home directory cannot be read.
        return {}
    known = _known_settings(known_commands)
    shared = {_name(key): value for key, value in settings.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in settings.items() if isinstance(value, dict)}
    _check_settings(path, "", shared, {name: kind for command in known.values() for name, kind in command.items()})
    result: dict[str, dict[str, object]] = {}
    for command, names in known.items():
        own = {_name(key): value for key, value in tables.pop(command, {}).items()}
        _check_settings(path, command, own, names)
        result[command] = {key: value for key, value in shared.items() if key in names} | own
    result["inspect"] = dict.fromkeys(known_commands.inspect_commands, result["inspect"])
    if tables:
        raise UsageError(f"{path} has a table [{next(iter(tables))}]; there are {', '.join(f'[{n}]' for n in known)}.")
    return result


def wrong_value(path: Path, command: str, parameter: str, why: str) -> str:
    """The error message for the value that the settings file gives to a parameter of a command, with its line."""
    return f"{_place(path, command, parameter)}: the value of {parameter} cannot be used: {why}"


def _place(path: Path, command: str, parameter: str) -> str:
    line = _line(path, command, parameter)
    return f"{path}" if line is None else f"{path}, line {line}"


def _line(path: Path, command: str, parameter: str) -> int | None:
    """The line, from 1, that sets a parameter of a command, in its table or at the top; None if not found."""
    try:
        lines = text_from_bytes(path.read_bytes(), str(path)).splitlines()
    except (OSError, UsageError):
        return None
    table, found = "", {}
    for number, line in enumerate(lines, 1):
        if header := re.match(r"\s*\[\s*([\w-]+)\s*\]", line):
            table = header[1]
        elif (key := re.match(r"""\s*["']?([\w-]+)["']?\s*=""", line)) and _name(key[1]) == parameter:
            found[table] = number
    return found.get(command, found.get(""))


def _known_settings(known_commands: CommandsWithSettings) -> dict[str, dict[str, Any]]:
    """For each command, the parameters that can be set in the file (those with a flag), with their annotations."""
    import inspect

    def settings(command: Callable[..., None]) -> dict[str, Any]:
        return {
            name: parameter.annotation
            for name, parameter in inspect.signature(command).parameters.items()
            if parameter.default is not parameter.empty and name not in _ARGUMENTS
        }

    known = {command.__name__: settings(command) for command in known_commands.commands}
    inspecting = map(settings, known_commands.inspect_commands.values())
    return {**known, "inspect": {name: kind for command in inspecting for name, kind in command.items()}}


def _name(key: str) -> str:
    name = key.replace("-", "_")
    return _OTHER_NAMES.get(name, name)


def _check_settings(path: Path, command: str, given: dict[str, object], known: Mapping[str, Any]) -> None:
    import difflib

    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "; see llm help usage."
            raise UsageError(f"{_place(path, command, name)}: {name!r} is not a setting{hint}")
        needed = _needed_type(known[name], value)
        if needed is not None:
            raise UsageError(wrong_value(path, command, name, f"{value!r} is not {needed}."))


def _needed_type(annotation: Any, value: object) -> str | None:
    """The needed type in words if a value's type does not fit the setting's annotation; None if it fits."""
    kinds = {each for part in (get_args(annotation) or (annotation,))[:1] for each in get_args(part) or (part,)}
    plain = {get_origin(each) or each for each in kinds}
    if list in plain:
        return None if isinstance(value, list) else "a list"
    if bool in plain:
        return None if isinstance(value, bool | str) else "true or false"
    if isinstance(value, str):
        return None
    if plain & {int, float}:
        fits = not isinstance(value, bool) and isinstance(value, (int, float) if float in plain else int)
        return None if fits else "a number" if float in plain else "a whole number"
    return "a text"
