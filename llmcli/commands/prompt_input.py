"""Where a prompt comes from: the command line, a pipe, or both."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from llmcli.errors import UsageError
from llmcli.views import terminal

LARGEST_BYTES = 256 << 20
"""The most that is read of standard input, or of a file that takes its place."""
_PATIENCE_S = 3.0


def read_prompt(argument: str | None, *, quiet: bool = False) -> str:
    """The prompt argument, a blank line, and what was piped in; "-" stands for the pipe alone.

    Raises:
        UsageError: there is no prompt at all.
    """
    piped = ""
    if stdin_is_piped():
        piped = read_stdin(quiet=quiet)
    elif argument == "-":
        piped = sys.stdin.read() if sys.stdin is not None else ""
    parts = [part for part in (None if argument == "-" else argument, piped) if part]
    if not parts:
        if argument is None and not stdin_is_piped():
            raise UsageError('There is no prompt. Give one (llm generate "..."), pipe text in, or start llm chat.')
        raise UsageError("The prompt is empty. Give a text, or pipe one in.")
    # Bytes of argv that are not UTF-8 arrive as lone surrogates.
    return "\n\n".join(parts).encode("utf-8", errors="surrogateescape").decode("utf-8", errors="replace")


def stdin_is_piped() -> bool:
    """Whether standard input is a pipe or a file rather than a keyboard or closed."""
    return sys.stdin is not None and not sys.stdin.closed and not sys.stdin.isatty()


def read_stdin(*, quiet: bool = False) -> str:
    """All of standard input as text, without byte order mark and last line end; invalid UTF-8 becomes U+FFFD."""
    return decoded_text(read_stdin_bytes(quiet=quiet))


def read_stdin_bytes(*, quiet: bool = False) -> bytes:
    """All of standard input.

    Raises:
        UsageError: there is none, or too much.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise UsageError("Standard input is closed; there is nothing to read.")
    waiting = threading.Timer(
        _PATIENCE_S, terminal.note, ["Waiting for the end of standard input (use < /dev/null if nothing will come)."]
    )
    waiting.daemon = True
    if not quiet:
        waiting.start()
    try:
        data = sys.stdin.buffer.read(LARGEST_BYTES + 1)
    finally:
        waiting.cancel()
    if len(data) > LARGEST_BYTES:
        raise UsageError(f"Standard input holds more than {LARGEST_BYTES >> 20} MiB, which no model can read at once.")
    return data


def read_file_bytes(path: Path) -> bytes:
    """All of a file, or of a FIFO or device that ends.

    Raises:
        UsageError: it cannot be read, or holds too much.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    if len(data) > LARGEST_BYTES:
        raise UsageError(f"{path} is larger than {LARGEST_BYTES >> 20} MiB; split it.")
    return data


def decoded_text(data: bytes) -> str:
    """Bytes from outside as text, without byte order mark and last line end; invalid UTF-8 becomes U+FFFD."""
    text = data.decode("utf-8", errors="replace").removeprefix("\ufeff")
    return text.replace("\r\n", "\n").removesuffix("\n")
