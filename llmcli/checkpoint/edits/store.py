"""The folder of stored edits, in the platform's data folder: naming, listing, finding and removing them."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from llmcli.errors import LlmcliError, UsageError
from llmcli.paths import data_folder

_SUFFIX = ".safetensors"
_LONGEST_NAME = 60


def edits_folder() -> Path:
    """The folder of stored edits (it may not exist yet); `XDG_DATA_HOME` and its relatives apply."""
    return data_folder() / "edits"


def edit_files() -> list[Path]:
    """All stored edits, the newest first."""
    found: list[tuple[int, Path]] = []
    with suppress(OSError):
        for path in edits_folder().iterdir():
            if path.suffix == _SUFFIX and not path.name.startswith("."):
                with suppress(OSError):
                    found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found, reverse=True)]


def new_edit_file(subject: str, target: str) -> Path:
    """An unused path named after the edit, such as eiffel-tower-rome."""
    words = re.sub(r"[\W_]+", "-", f"{subject} {target}".lower()).strip("-") or "edit"
    name = words.encode()[:_LONGEST_NAME].decode(errors="ignore").strip("-")
    taken = {path.stem for path in edit_files()}
    number = 1
    while (free := name if number == 1 else f"{name}-{number}") in taken:
        number += 1
    return edits_folder() / f"{free}{_SUFFIX}"


def find_edit(name: str) -> Path:
    """The file `name`, else the stored edit that `llm edit list` shows under that name.

    Raises:
        UsageError: there is neither.
    """
    path = Path(name).expanduser()
    with suppress(OSError, ValueError):
        if path.is_file():
            return path
    stored = {file.stem: file for file in edit_files()}
    found = stored.get(name.removesuffix(_SUFFIX))
    if found is None:
        listed = f"; there are {', '.join(list(stored)[:5])}" if stored else ""
        raise UsageError(f"There is no edit {name!r}, neither a file nor one that llm edit list shows{listed}.")
    return found


def remove_edit(path: Path) -> None:
    """Delete an edit file.

    Raises:
        LlmcliError: the file system refuses.
    """
    try:
        os.unlink(path)  # noqa: PTH108 (a link is removed, not what it points at)
    except OSError as error:
        raise LlmcliError(f"Could not remove {path}: {error.strerror}.") from None
