"""Model aliases: short names that a user gives to models, kept in the platform's configuration folder."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llmcli.errors import ModelNotFoundError, UsageError
from llmcli.files import replace_text, set_aside
from llmcli.hub.starter import STARTER
from llmcli.paths import config_folder
from llmcli.text.chat_template.json_text import json_text
from llmcli.text.decode_bytes import text_from_bytes

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_LARGEST_BYTES = 16 << 20


def aliases_path() -> Path:
    """The file of aliases."""
    return config_folder() / "aliases.json"


def aliases() -> dict[str, str]:
    """All aliases: name -> model.

    Raises:
        UsageError: the file is damaged.
    """
    try:
        return _read(aliases_path())
    except OSError:
        # An unreadable home directory must not stop commands.
        return {}


def alias_target(name: str) -> str | None:
    """The model that the alias `name` means; None if there is no such alias.

    Raises:
        UsageError: the file is damaged, and `name` could be an alias.
    """
    try:
        return aliases().get(name)
    except UsageError:
        if _can_be_alias(name):
            raise
        return None


def _can_be_alias(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and not name.lower().endswith(".gguf") and not STARTER.called(name)


class _DamagedError(UsageError):
    """The file is readable, but does not hold aliases."""


def _read(path: Path) -> dict[str, str]:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    # Reading a FIFO would block.
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path} is not a file; aliases are kept there.")
    try:
        if status.st_size > _LARGEST_BYTES:
            raise ValueError
        found = json.loads(text_from_bytes(path.read_bytes(), str(path)))
    except (ValueError, RecursionError, UsageError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(target, str) for target in found.values()):
        raise _DamagedError(f"{path} is not a JSON object of names and models; correct or delete it.")
    return dict(sorted(found.items()))


def check_alias(name: str, model: str) -> None:
    """Raise `UsageError` if `name` would be ambiguous as an alias, or `model` is empty."""
    if _NAME.fullmatch(name) is None or name.lower().endswith(".gguf"):
        raise UsageError(f"{name!r} cannot be an alias: use letters, digits, dots, dashes and underscores.")
    if STARTER.called(name):
        raise UsageError(f"{name!r} is the starter model, and cannot be an alias.")
    if not model.strip():
        raise UsageError("The model's name is empty.")


def set_alias(name: str, model: str) -> tuple[str, Path | None]:
    """Let `name` mean `model`; returns the model (a path is made absolute).

    A damaged file is set aside first, and its new path is returned too.

    Raises:
        UsageError: `name` would be ambiguous, or `model` is an alias itself.
    """
    check_alias(name, model)
    path = Path(model).expanduser()
    target = str(path.resolve()) if path.exists() else model
    with _editing(setting=True) as (known, aside):
        if model in known:
            raise UsageError(f"{model!r} is an alias itself; name the model it stands for, {known[model]!r}.")
        known[name] = target
    return target, aside


def remove_alias(name: str) -> None:
    """Remove an alias; the model is not removed.

    Raises:
        ModelNotFoundError: there is no such alias.
    """
    with _editing() as (known, _):
        if name not in known:
            raise ModelNotFoundError(f"There is no alias {name!r}; `llm alias list` shows them.")
        del known[name]


@contextmanager
def _editing(*, setting: bool = False) -> Iterator[tuple[dict[str, str], Path | None]]:
    """Yield all aliases for changing, and write them back; one process at a time, so that no change is lost.

    A damaged file raises an error; with `setting` it is set aside, and its new path is yielded too.
    """
    from filelock import FileLock

    path, aside = aliases_path(), None
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    # A file system without locks: continue without one.
    with suppress(OSError, NotImplementedError):
        lock.acquire()
    try:
        try:
            known = _read(path)
        except _DamagedError:
            if not setting:
                raise
            known, aside = {}, set_aside(path)
        yield known, aside
        replace_text(path, json_text(known, indent=2) + "\n")
    finally:
        lock.release()
