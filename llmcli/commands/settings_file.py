"""`config.toml`: settings that hold whenever neither a flag nor an environment variable says otherwise."""

from __future__ import annotations

import sys
from pathlib import Path

from llmcli.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def settings_path() -> Path:
    """Where the file lies on this platform."""
    import platformdirs

    return Path(platformdirs.user_config_dir("llmcli")) / "config.toml"


def default_map() -> dict[str, dict[str, object]]:
    """For each command that takes settings, the values the file gives.

    Settings at the top of the file hold for every command that has them, those in a table such as `[chat]` for that
    command. Names are those of the long flags, with - or _.

    Raises:
        UsageError: the file is not TOML, or names a setting that no command has.
    """
    path = settings_path()
    try:
        if not path.is_file():
            return {}
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        # A home directory that cannot be read is no reason not to work.
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}.") from None
    known = _known_settings()
    shared = {_name(key): value for key, value in settings.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in settings.items() if isinstance(value, dict)}
    _refuse_unknown(path, shared, set().union(*known.values()))
    result: dict[str, dict[str, object]] = {}
    for command, names in known.items():
        own = {_name(key): value for key, value in tables.pop(command, {}).items()}
        _refuse_unknown(path, own, names)
        result[command] = {key: value for key, value in shared.items() if key in names} | own
    if tables:
        raise UsageError(f"{path} has a table [{next(iter(tables))}]; there are {', '.join(f'[{n}]' for n in known)}.")
    return result


def _known_settings() -> dict[str, set[str]]:
    """The parameters of each command that can be set in the file: all that have a flag."""
    import inspect

    from llmcli.commands.chat import chat
    from llmcli.commands.generate import generate
    from llmcli.commands.score import score

    return {
        command.__name__: set(inspect.signature(command).parameters) - {"prompt", "text"}
        for command in (generate, chat, score)
    }


def _name(key: str) -> str:
    return key.replace("-", "_")


def _refuse_unknown(path: Path, given: dict[str, object], known: set[str]) -> None:
    import difflib

    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise UsageError(f"{path} sets {name!r}, which is not a setting{hint}")
