"""Read the small files beside the weights; size and nesting are limited, because they are untrusted."""

from __future__ import annotations

import json
from pathlib import Path

from llmcli.checkpoint.files.safe_paths import inside
from llmcli.errors import CheckpointError

_LARGEST_BYTES = 256 << 20


def read_bytes(path: Path) -> bytes:
    """The bytes of a regular file in its folder, at most 256 MiB; `CheckpointError` otherwise.

    See `inside` for the symbolic links that are followed.
    """
    path = inside(path.parent, path.name)
    try:
        # Reading a FIFO or a device could block or never end.
        if not path.is_file():
            raise CheckpointError(f"{path} is not a regular file.")
        if path.stat().st_size > _LARGEST_BYTES:
            raise CheckpointError(f"{path} has {path.stat().st_size} bytes; at most {_LARGEST_BYTES} are accepted.")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} could not be read: {error.strerror}.") from None


def read_text(path: Path) -> str:
    """The UTF-8 text of a file of at most 256 MiB, line endings unchanged; `CheckpointError` otherwise."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not UTF-8 text (byte {error.start}); download it again.") from None


def read_json_object(path: Path) -> dict[str, object]:
    """The JSON object in `path`; `CheckpointError` for anything else."""
    text = read_text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError):
            what = f"line {error.lineno}: {error.msg}"
        else:
            what = "nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"
        raise CheckpointError(f"{path} is not valid JSON ({what}); download it again.") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object.")
    return value


def optional_json_object(path: Path) -> dict[str, object]:
    """Like `read_json_object`, but an empty object if the file does not exist."""
    return read_json_object(path) if path.exists() else {}
