"""Read chat templates from files that a user names in place of the model's own template."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from llmcli.errors import UsageError
from llmcli.sizes import size
from llmcli.text.decode_bytes import text_from_bytes

_ENDINGS = (".jinja", ".jinja2", ".j2")
_LARGEST_BYTES = 1 << 20


def is_template_file(name: str) -> bool:
    """Whether `name` means a file, not a template's name: such a file exists, or the name is spelled as a path."""
    return _spelled_as_path(name) or Path(name).is_file()


def check_template_file(name: str | None) -> None:
    """Raise `UsageError` if `name` is spelled as a path and holds no readable template."""
    if name is not None and _spelled_as_path(name):
        read_template_file(name)


def read_template_file(name: str) -> str:
    """The source of the template in the file `name`, which may be a pipe.

    Raises:
        UsageError: it cannot be read, is too large, is not text in a known encoding, or is empty.
    """
    path = Path(name).expanduser()
    is_stored = path.is_file() or not path.exists()
    source = _read(name, path) if is_stored else _read_once(name, path)
    if not source.strip():
        raise UsageError(f"The chat template {name} is empty.")
    return source


def _read(name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"The chat template {name} cannot be read: {error.strerror}.") from None
    if len(data) > _LARGEST_BYTES:
        raise UsageError(
            f"The chat template {name} is larger than {size(_LARGEST_BYTES)}, the limit for chat templates."
        )
    return text_from_bytes(data, f"The chat template {name}", instead="Save it as UTF-8.")


# A pipe can be read only once.
_read_once = lru_cache(maxsize=8)(_read)


def _spelled_as_path(name: str) -> bool:
    return name.endswith(_ENDINGS) or "/" in name or os.sep in name
