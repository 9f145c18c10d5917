"""Prompt templates: prompts with placeholders, one TOML file each in the platform's configuration directory."""

from __future__ import annotations

import difflib
import json
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmcli.commands.shared.prompt_input import argument_text, read_prompt, read_stdin, stdin_is_piped
from llmcli.commands.shared.settings_file import read_own_toml
from llmcli.errors import UsageError
from llmcli.files import replace_text, set_aside
from llmcli.paths import config_folder

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
# {name} is a placeholder, {{name}} the literal {name}; other braces, such as those of JSON, are literal.
_PLACE = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|\{([A-Za-z_]\w*)\}")
_INPUT = "input"
_LARGEST_BYTES = 16 << 20


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt with placeholders, and optionally a system prompt."""

    name: str
    prompt: str
    system: str | None = None

    @property
    def places(self) -> tuple[str, ...]:
        """The names of the placeholders, `input` included, in order of first use."""
        found = _PLACE.findall(f"{self.prompt}\n{self.system or ''}")
        return tuple(dict.fromkeys(place for _, place in found if place))

    def filled(self, text: str, params: Mapping[str, str]) -> tuple[str, str | None]:
        """Prompt and system prompt with every placeholder filled.

        `text` fills {input}; without that placeholder it follows the prompt after a blank line.

        Raises:
            UsageError: a placeholder has no value, or a param no placeholder.
        """
        places = self.places
        for key in params:
            if key not in places:
                known = f"its places are {', '.join(places)}" if places else "it has none"
                raise UsageError(f"The prompt template {self.name!r} has no place {{{key}}}; {known}.")
        missing = [place for place in places if place not in params and (place != _INPUT or not text)]
        if missing == [_INPUT]:
            raise UsageError(f"The prompt template {self.name!r} needs a prompt to go into {{{_INPUT}}}.")
        if missing:
            needed = " ".join(f"--param {place}=..." for place in missing if place != _INPUT)
            raise UsageError(f"The prompt template {self.name!r} has places to fill: {needed}.")
        values = {_INPUT: text, **params}

        def fill(pattern: str) -> str:
            return _PLACE.sub(lambda found: f"{{{found[1]}}}" if found[1] else values[found[2]], pattern)

        prompt = fill(self.prompt)
        if text and _INPUT not in places:
            prompt = f"{prompt}\n\n{text}"
        return prompt, None if self.system is None else fill(self.system)


def template_folder() -> Path:
    """The folder of the prompt templates."""
    return config_folder() / "templates"


def template_names() -> list[str]:
    """Names of the saved templates, valid or not; empty if the folder cannot be read."""
    try:
        names = sorted(path.stem for path in template_folder().glob("*.toml"))
    except OSError:
        return []
    return [name for name in names if _NAME.fullmatch(name)]


def prompt_templates() -> tuple[list[PromptTemplate], list[UsageError]]:
    """All valid prompt templates sorted by name, and the errors of the others."""
    found, damaged = [], []
    for name in template_names():
        try:
            found.append(find(name))
        except UsageError as error:  # noqa: PERF203
            damaged.append(error)
    return found, damaged


def find(name: str) -> PromptTemplate:
    """Read the prompt template `name`.

    Raises:
        UsageError: there is none, or its file is damaged.
    """
    path = _path(name)
    try:
        status = path.stat()
        # Opening a FIFO would block.
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path} is not a file.")
        if status.st_size > _LARGEST_BYTES:
            raise UsageError(f"{path} is larger than any prompt.")
        values = read_own_toml(path)
    except OSError:
        known = sorted(path.stem for path in template_folder().glob("*.toml"))
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`llm prompt list` shows them all."
        raise UsageError(f"There is no prompt template {name!r}; {hint}") from None
    prompt, system = values.get("prompt"), values.get("system")
    if not isinstance(prompt, str) or not isinstance(system, str | None) or values.keys() - {"prompt", "system"}:
        raise UsageError(f"{path} must have a text 'prompt', may have a text 'system', and nothing else.")
    return PromptTemplate(name, prompt, system)


def save(template: PromptTemplate) -> tuple[Path, Path | None]:
    """Save a prompt template, replacing one of the same name; return its file, and None or a file set aside.

    An existing file that is not a valid prompt template is not overwritten but renamed (set aside), because its content
    may still be wanted; its new path is the second value.

    Raises:
        UsageError: the name is not a valid file name.
    """
    path, aside = _path(template.name), None
    if path.is_file():
        try:
            find(template.name)
        except UsageError:
            aside = set_aside(path)
    lines = [f"prompt = {_toml(template.prompt)}\n"]
    if template.system is not None:
        lines.append(f"system = {_toml(template.system)}\n")
    replace_text(path, "".join(lines))
    return path, aside


def remove(name: str) -> None:
    """Delete the prompt template `name`; `UsageError` if it does not exist."""
    find_path = _path(name)
    if not find_path.is_file():
        find(name)
    find_path.unlink()


def read_filled(
    name: str,
    argument: str | None,
    params: Sequence[str] | None,
    files: Sequence[str] = (),
    *,
    raw: bool = False,
) -> tuple[str, str | None]:
    """Read a template and fill it with the text that `read_prompt` makes of the others, and `KEY=VALUE` params.

    Raises:
        UsageError: a placeholder has no value, or a param has another form.
    """
    template = find(name)
    values: dict[str, str] = {}
    for param in params or ():
        key, sign, value = param.partition("=")
        if not sign or not key.isidentifier():
            raise UsageError(f"--param {param} is not of the form KEY=VALUE.")
        values[key] = argument_text(value, "--param")
    needs_input = _INPUT in template.places and _INPUT not in values
    if needs_input or files or argument is not None:
        return template.filled(read_prompt(argument, files, raw=raw), values)
    return template.filled(read_stdin() if stdin_is_piped() else "", values)


def _path(name: str) -> Path:
    if _NAME.fullmatch(name) is None:
        raise UsageError(f"{name!r} cannot name a prompt template: use letters, digits, dots, dashes and underscores.")
    return template_folder() / f"{name}.toml"


def _toml(text: str) -> str:
    """Format a TOML basic string: a JSON string with DEL escaped as well."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
