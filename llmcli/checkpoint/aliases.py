"""Short names that a user has given to models, kept in the platform's configuration directory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from llmcli.checkpoint.starter import STARTER
from llmcli.checkpoint.writing import replace_text
from llmcli.errors import ModelNotFoundError, UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def aliases_path() -> Path:
    """Where they are kept."""
    import platformdirs

    return Path(platformdirs.user_config_dir("llmcli")) / "aliases.json"


def aliases() -> dict[str, str]:
    """All of them, by name: what each stands for.

    Raises:
        UsageError: the file is damaged.
    """
    path = aliases_path()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(target, str) for target in found.values()):
        raise UsageError(f"{path} is not a JSON object of names and models; mend or remove it.")
    return dict(sorted(found.items()))


def set_alias(name: str, model: str) -> str:
    """Let `name` stand for `model`, and return what that is: a path is made absolute.

    Raises:
        UsageError: `name` could not be told from another way to name a model, or `model` is an alias itself.
    """
    if _NAME.fullmatch(name) is None or name.lower().endswith(".gguf"):
        raise UsageError(f"{name!r} cannot be an alias: use letters, digits, dots, dashes and underscores.")
    if STARTER.called(name):
        raise UsageError(f"{name!r} is the starter model, and cannot be an alias.")
    if not model.strip():
        raise UsageError("The model's name is empty.")
    path = Path(model).expanduser()
    target = str(path.resolve()) if path.exists() else model
    with _changing() as known:
        if model in known:
            raise UsageError(f"{model!r} is an alias itself; name the model it stands for, {known[model]!r}.")
        known[name] = target
    return target


def remove_alias(name: str) -> None:
    """Forget an alias; the model stays.

    Raises:
        ModelNotFoundError: there is none of that name.
    """
    with _changing() as known:
        if name not in known:
            raise ModelNotFoundError(f"There is no alias {name!r}; `llm alias list` shows them.")
        del known[name]


@contextmanager
def _changing() -> Iterator[dict[str, str]]:
    """All aliases, to be changed; one process at a time, so that none undoes what another does."""
    path = aliases_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    # A file system without locks: nobody can take one.
    with suppress(OSError, NotImplementedError):
        lock.acquire()
    try:
        known = aliases()
        yield known
        replace_text(path, json.dumps(known, ensure_ascii=False, indent=2) + "\n")
    finally:
        lock.release()
