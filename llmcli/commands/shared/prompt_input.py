"""Where a prompt comes from: the command line, a pipe, or both."""

from __future__ import annotations

import os
import re
import sys
import threading
from pathlib import Path

from llmcli.errors import UsageError
from llmcli.text.decode_bytes import checked_encoding, text_from_bytes
from llmcli.views.terminal import terminal

LARGEST_BYTES = 256 << 20
"""The most that is read of standard input, or of a file that takes its place."""
_PATIENCE_S = 3.0
_STDIN = "Standard input"
_encoding: str | None = None
# A word with a slash inside or before it, or with the suffix of a text file.
_LIKE_A_PATH = re.compile(r"~?\S*/\S+|\S+\.(txt|text|md|markdown|rst|json|jsonl|csv|tsv|log|xml|html?|py|toml|ya?ml)")


def configure_encoding(name: str | None) -> None:
    """Set what `--encoding` says of all text that is read; None leaves it to the text itself and the locale.

    Raises:
        UsageError: there is no such encoding.
    """
    global _encoding
    _encoding = None if name is None else checked_encoding(name)


def read_prompt(argument: str | None) -> str:
    """The prompt argument, a blank line, and what was piped in; "-" stands for the pipe alone.

    Raises:
        UsageError: there is no prompt at all.
    """
    piped = ""
    if stdin_is_piped():
        piped = read_stdin()
    elif argument == "-":
        piped = "" if sys.stdin is None else decoded_text(sys.stdin.buffer.read(), _STDIN)
    if argument is not None:
        argument = argument_text(argument, "The prompt")
    parts = [part for part in (None if argument == "-" else argument, piped) if part]
    if not parts:
        if argument is None and not stdin_is_piped():
            raise UsageError('There is no prompt. Give one (llm generate "..."), pipe text in, or start llm chat.')
        raise UsageError("The prompt is empty. Give a text, or pipe one in.")
    return "\n\n".join(parts)


def stdin_is_piped() -> bool:
    """Whether standard input is a pipe or a file rather than a keyboard or closed."""
    return sys.stdin is not None and not sys.stdin.closed and not sys.stdin.isatty()


def read_stdin() -> str:
    """All of standard input as text, without byte order mark and last line end.

    Raises:
        UsageError: there is none, or too much, or it is not text in a known encoding.
    """
    return decoded_text(read_stdin_bytes(), _STDIN)


def read_stdin_bytes() -> bytes:
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


def read_file_text(path: Path) -> str:
    """All of a text file, as `decoded_text` makes it of its bytes.

    Raises:
        UsageError: it cannot be read, holds too much, or is not text in a known encoding.
    """
    return decoded_text(read_file_bytes(path), str(path))


def file_or_text(argument: str | None) -> str:
    """The contents of the file that the argument names, or the argument itself; "-" or None stands for piped text.

    Raises:
        UsageError: there is no text, a file cannot be read as text, or one word that looks like a path is no file.
    """
    if argument is None or argument == "-":
        return read_prompt(argument)
    path = Path(argument)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # a text too long, or too odd, to be a name
        is_file = False
    if is_file:
        return read_file_text(path)
    content = argument_text(argument, "The text")
    if _LIKE_A_PATH.fullmatch(content):
        raise UsageError(f"There is no file {content!r}. If it is the text itself, pipe it in with - as the argument.")
    return content


def decoded_text(data: bytes, source: str) -> str:
    """Bytes from outside as text, without byte order mark and last line end.

    `source` is what messages call them. A NUL in them is passed on with a note.

    Raises:
        UsageError: they are not text in the encoding that `--encoding`, a byte order mark, UTF-8 or the locale give.
    """
    text = decode_input(data, source)
    if "\0" in text:
        terminal.note(f"{source} has NUL characters, which text has not; the model reads them as they are.")
    return text


def decode_input(data: bytes, source: str) -> str:
    """`decoded_text` without the note, for callers that refuse a NUL or accept it."""
    return text_from_bytes(data, source, _encoding).replace("\r\n", "\n").removesuffix("\n")


def argument_text(argument: str, source: str) -> str:
    """A text from the command line or the environment; `source` is what an error calls it.

    Raises:
        UsageError: its bytes are not text in the encoding of the locale, or the one that `--encoding` gives.
    """
    # Python passes bytes that it cannot decode on as lone surrogates.
    if argument.isascii() or not any("\ud800" <= character <= "\udfff" for character in argument):
        return argument
    try:
        data = os.fsencode(argument)
    except UnicodeEncodeError:  # surrogates that stand for no byte
        return argument.encode("utf-8", errors="replace").decode("utf-8")
    advice = "Say how it is encoded, as in --encoding cp1252." if _encoding is None else None
    return text_from_bytes(data, source, _encoding, instead=advice)
