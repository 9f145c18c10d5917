"""Read and decode text from the command line, standard input and files."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from llmcli.errors import UsageError
from llmcli.sizes import size
from llmcli.text.chat.attached_files import with_files
from llmcli.text.decode_bytes import checked_encoding, text_from_bytes
from llmcli.views.terminal import terminal

LARGEST_BYTES = 256 << 20
"""The most bytes read from standard input or from an input file."""
_NOTE_AFTER_S = 3.0
_STDIN = "Standard input"
_encoding: str | None = None
# One word with a slash in it, or with the suffix of a text file.
_LIKE_A_PATH = re.compile(r"~?\S*/\S+|\S+\.(txt|text|md|markdown|rst|json|jsonl|csv|tsv|log|xml|html?|py|toml|ya?ml)")


def configure_encoding(name: str | None) -> None:
    """Set the encoding of all text that is read (`--encoding`); None detects it from the text and the locale.

    Raises:
        UsageError: there is no such encoding.
    """
    global _encoding
    _encoding = None if name is None else checked_encoding(name)


def read_prompt(argument: str | None, files: Sequence[str] = (), *, raw: bool = False) -> str:
    """The texts of `files`, the prompt argument, and the piped text, with blank lines between them.

    As the argument, "-" is the piped text alone. Among the files it makes the piped text a file. A single file
    without any other text is the prompt as it is, and so is everything with `raw`; other files are marked as files.

    Raises:
        UsageError: there is no prompt, it is empty, a file cannot be read, or standard input is wanted twice.
    """
    if [argument, *files].count("-") > 1:
        raise UsageError("Standard input can be read only once, so one - is enough.")
    attached = [("stdin", _typed_or_piped()) if name == "-" else (name, read_plain_text(name)) for name in files]
    piped = ""
    if argument == "-":
        piped = _typed_or_piped()
    elif "-" not in files and stdin_is_piped():
        piped = read_stdin()
    if argument is not None:
        argument = argument_text(argument, "The prompt")
    parts = [part for part in (None if argument == "-" else argument, piped) if part]
    if files:
        as_it_is = raw or (not parts and len(attached) == 1)
        texts = [text for _, text in attached]
        prompt = "\n\n".join([*texts, *parts]) if as_it_is else with_files("\n\n".join(parts), attached)
    else:
        prompt = "\n\n".join(parts)
    if not prompt:
        if argument is None and not files and not stdin_is_piped():
            raise UsageError('There is no prompt. Give one (llm generate "..."), pipe text in, or start llm chat.')
        raise UsageError("The prompt is empty. Give a text, or pipe one in.")
    return prompt


def _typed_or_piped() -> str:
    """Standard input, also from a keyboard until Ctrl-D."""
    if stdin_is_piped():
        return read_stdin()
    return "" if sys.stdin is None else decoded_text(sys.stdin.buffer.read(), _STDIN)


def stdin_is_piped() -> bool:
    """Whether standard input is a pipe or a file rather than a keyboard or closed."""
    return sys.stdin is not None and not sys.stdin.closed and not sys.stdin.isatty()


def read_stdin() -> str:
    """Read standard input as text, without byte order mark and final newline.

    Raises:
        UsageError: it is closed, too large, or not text in a known encoding.
    """
    return decoded_text(read_stdin_bytes(), _STDIN)


def read_stdin_bytes() -> bytes:
    """Read standard input.

    Raises:
        UsageError: it is closed or too large.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise UsageError("Standard input is closed; there is nothing to read.")
    waiting = threading.Timer(
        _NOTE_AFTER_S, terminal.note, ["Waiting for the end of standard input (use < /dev/null if nothing will come)."]
    )
    waiting.daemon = True
    waiting.start()
    try:
        data = sys.stdin.buffer.read(LARGEST_BYTES + 1)
    finally:
        waiting.cancel()
    if len(data) > LARGEST_BYTES:
        raise UsageError(f"Standard input holds more than {size(LARGEST_BYTES)}, which no model can read at once.")
    return data


def read_file_bytes(path: Path) -> bytes:
    """Read a file, FIFO or device to its end.

    Raises:
        UsageError: it cannot be read, or is too large.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    if len(data) > LARGEST_BYTES:
        raise UsageError(f"{path} is larger than {size(LARGEST_BYTES)}; split it.")
    return data


def read_file_text(path: Path) -> str:
    """Read a text file and decode it with `decoded_text`.

    Raises:
        UsageError: it cannot be read, is too large, or is not text in a known encoding.
    """
    return decoded_text(read_file_bytes(path), str(path))


def read_plain_text(name: str) -> str:
    """Read the text file `name`, in which ~ is the home folder; a file with NUL characters is refused.

    Raises:
        UsageError: the name is empty, or the file cannot be read, is too large, or is not text in a known encoding.
    """
    if not name:
        raise UsageError("The name of a file is empty.")
    path = Path(name).expanduser()
    return _without_nul(decode_input(read_file_bytes(path), str(path)), str(path))


def _without_nul(text: str, source: str) -> str:
    if "\0" in text:
        raise UsageError(f"{source} is not a text that a model could read: it has NUL characters.")
    return text


def file_or_text(argument: str | None) -> str:
    """The contents of the file named by the argument, or the argument itself; piped text for "-" or None.

    Raises:
        UsageError: there is no text, a file cannot be read as text, or the argument looks like a path but no such file
            exists.
    """
    if argument is None or argument == "-":
        return read_prompt(argument)
    path = Path(argument)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # too long for a file name, or with a NUL
        is_file = False
    if is_file:
        return read_file_text(path)
    content = argument_text(argument, "The text")
    if _LIKE_A_PATH.fullmatch(content):
        raise UsageError(f"There is no file {content!r}. If it is the text itself, pipe it in with - as the argument.")
    return content


def text_or_file(argument: str, option: str) -> str:
    """The text given to an option: the contents of FILE for @FILE, otherwise the argument, in which @@ begins as @.

    Raises:
        UsageError: the file cannot be read as text, or the argument is not text in a known encoding.
    """
    if not argument.startswith("@"):
        return argument_text(argument, option)
    if argument.startswith("@@"):
        return argument_text(argument[1:], option)
    name = argument[1:]
    if not name:
        raise UsageError(f"{option} @ lacks the name of a file. A text that begins with @ is written with @@.")
    if not os.path.lexists(Path(name).expanduser()):
        raise UsageError(f"There is no file {name!r} for {option}. A text that begins with @ is written with @@.")
    return read_plain_text(name)


def decoded_text(data: bytes, source: str) -> str:
    """Decode input bytes, without byte order mark and final newline.

    `source` names the input in messages. NUL characters are kept, with a note.

    Raises:
        UsageError: the bytes are not text in the encoding of `--encoding`, a byte order mark, UTF-8 or the locale.
    """
    text = decode_input(data, source)
    if "\0" in text:
        terminal.note(f"{source} has NUL characters, which text has not; the model reads them as they are.")
    return text


def decode_input(data: bytes, source: str) -> str:
    """`decoded_text` without the note about NUL characters, for callers that refuse or expect them."""
    return text_from_bytes(data, source, _encoding).replace("\r\n", "\n").removesuffix("\n")


def argument_text(argument: str, source: str) -> str:
    """Decode a text from the command line or the environment; `source` names it in errors.

    Raises:
        UsageError: its bytes are not text in the encoding of the locale, or in that of `--encoding`.
    """
    # Python represents bytes of arguments that it cannot decode as lone surrogates.
    if argument.isascii() or not any("\ud800" <= character <= "\udfff" for character in argument):
        return argument
    try:
        data = os.fsencode(argument)
    except UnicodeEncodeError:  # surrogates that represent no byte
        return argument.encode("utf-8", errors="replace").decode("utf-8")
    advice = "Say how it is encoded, as in --encoding cp1252." if _encoding is None else None
    return text_from_bytes(data, source, _encoding, instead=advice)
