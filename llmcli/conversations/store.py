"""The folders of conversations: one JSON-lines file each, in the platform's data folder.

Files only grow, one whole line at a time, so that a killed program loses nothing that it has written. One process at a
time writes to a file; others may read it.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from enum import Enum
from io import FileIO
from pathlib import Path

from llmcli.conversations.records import VERSION, Begin, Record, from_line, to_line
from llmcli.conversations.tree import Tree
from llmcli.errors import LlmcliError, UsageError
from llmcli.files import create_damaged_file
from llmcli.paths import data_folder
from llmcli.sizes import size

_SUFFIX = ".jsonl"
_LARGEST_BYTES = 256 << 20
# Without letters that look alike: ids are read from a screen and typed.
_LETTERS = "abcdefghjkmnpqrstvwxyz23456789"


class ConversationKind(Enum):
    """The command that began a conversation; the value is the name of the folder of its files."""

    CHAT = "conversations"
    """`llm chat`."""
    RUN = "runs"
    """`llm generate --log`."""


ANY = tuple(ConversationKind)
# For a message: what the conversations are called, and where to find them.
_SHOWN = {
    (ConversationKind.CHAT,): ("conversation", "`llm chats list` shows them"),
    (ConversationKind.RUN,): ("run", "`llm log` shows them"),
    ANY: ("conversation", "`llm chats list` and `llm log` show them"),
}


def conversations_folder(kind: ConversationKind = ConversationKind.CHAT) -> Path:
    """The folder of the files (it may not exist yet); `XDG_DATA_HOME` and its relatives apply."""
    return data_folder() / kind.value


def now() -> str:
    """The current time in the format of records."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class ConversationFile:
    """A conversation file open for writing, locked until it is closed."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self.path = path
        self._file = file

    @classmethod
    def create(cls, program: str, kind: ConversationKind = ConversationKind.CHAT) -> tuple[ConversationFile, Begin]:
        """Create a file with its first line, readable only by its owner; `program` is recorded as its writer.

        Raises:
            OSError: the folder cannot be written.
        """
        folder = conversations_folder(kind)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        while True:
            time = now()
            day, clock = time[:10].replace("-", ""), time[11:19].replace(":", "")
            name = f"{day}-{clock}-{''.join(secrets.choice(_LETTERS) for _ in range(4))}"
            path = folder / f"{name}{_SUFFIX}"
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            except FileExistsError:
                continue
            file = cls(path, FileIO(descriptor, "a"))
            _lock(file._file, path)
            begin = Begin(name, time, program)
            file.append(begin)
            return file, begin

    @classmethod
    def resume(cls, path: Path) -> tuple[ConversationFile, Tree, str | None]:
        """Open an existing file; returns it, its content, and a note for the user.

        A damaged file is cut at the damage and continued from there; the whole file is copied aside first.

        Raises:
            LlmcliError: it cannot be read or written, is open in another process, or has no valid first line.
        """
        try:
            # Without O_NONBLOCK, opening a FIFO would wait for a reader.
            file = FileIO(os.open(path, os.O_RDWR | os.O_APPEND | os.O_NONBLOCK), "a")
        except OSError as error:
            raise LlmcliError(f"{path} cannot be opened: {error.strerror}.") from error
        try:
            _lock(file, path)
            aside = _cut_damage(file, path)
            tree, note = read_conversation(path)
            _repair_end(file, path)
        except BaseException:
            file.close()
            raise
        return cls(path, file), tree, aside or note

    def append(self, record: Record, *, durable: bool = True) -> None:
        """Write one line; with `durable` it survives even a power cut.

        Raises:
            OSError: the disk is full, or another fault of the file system.
        """
        data = memoryview(f"{to_line(record)}\n".encode("utf-8", errors="replace"))
        while data:
            data = data[self._file.write(data) or 0 :]
        if durable:
            os.fsync(self._file.fileno())

    def move_to(self, kind: ConversationKind) -> None:
        """Move the file to the folder of `kind`, if it is in another.

        Raises:
            OSError: the folder cannot be written.
        """
        folder = conversations_folder(kind)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = self.path.rename(folder / self.path.name)

    def close(self) -> None:
        """Close the file and release its lock."""
        self._file.close()


def read_conversation(path: Path) -> tuple[Tree, str | None]:
    """The content of a file, and a note for the user if its last line is incomplete and was left out.

    Raises:
        LlmcliError: it cannot be read, is damaged, or has a later version of the format.
    """
    data = _contents(path)
    whole, torn = _split(data)
    tree = Tree()
    for number, line in enumerate(whole.split(b"\n")[:-1], 1):
        _apply_line(tree, line, number, path)
    if tree.begin is None:
        raise LlmcliError(f"{path} is empty; it holds no conversation.")
    return tree, f"The last line of {path} is incomplete and was left out." if torn else None


class _LaterVersionError(LlmcliError):
    """The file is valid, but its format is later than ours."""


def _contents(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise LlmcliError(f"{path} is not a regular file.")
        if path.stat().st_size > _LARGEST_BYTES:
            raise LlmcliError(f"{path} is larger than {size(_LARGEST_BYTES)}; it is not a conversation.")
        return path.read_bytes()
    except OSError as error:
        raise LlmcliError(f"{path} cannot be read: {error.strerror}.") from error


def _apply_line(tree: Tree, line: bytes, number: int, path: Path) -> None:
    """Apply the next line to `tree`; `LlmcliError` if the line is invalid."""
    record = _record(line, f"{path}, line {number}")
    if isinstance(record, Begin) and record.version > VERSION:
        raise _LaterVersionError(f"{path} was written by a later version of llmcli ({record.program}).")
    if (number == 1) != isinstance(record, Begin):
        raise LlmcliError(f"{path}, line {number}, is out of order; the file is damaged.")
    _apply(tree, record, f"{path}, line {number}")


def _cut_damage(file: FileIO, path: Path) -> str | None:
    """Copy a damaged file aside and cut it at the damage; returns a note for the user, None if it is undamaged."""
    whole, _ = _split(_contents(path))
    tree, sound = Tree(), 0
    for number, line in enumerate(whole.split(b"\n")[:-1], 1):
        try:
            _apply_line(tree, line, number, path)
        except _LaterVersionError:
            raise
        except LlmcliError as error:
            if tree.begin is None:
                raise
            copy = _copy_aside(path)
            os.ftruncate(file.fileno(), sound)
            return f"{error} The conversation continues from before the damage; the whole file is kept as {copy}."
        sound += len(line) + 1
    return None


def _copy_aside(path: Path) -> Path:
    """Copy a file beside itself, under an unused name that is not listed as a conversation."""
    try:
        copy, descriptor = create_damaged_file(path)
    except OSError as error:
        raise LlmcliError(f"{path} is damaged, and {error.filename} cannot be written: {error.strerror}.") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(_contents(path))
        # Synced before the original is cut.
        file.flush()
        os.fsync(file.fileno())
    return copy


def conversation_files(kinds: Sequence[ConversationKind] = (ConversationKind.CHAT,)) -> list[Path]:
    """All files of `kinds`, the one last written to first; a folder that does not exist or cannot be read has none.

    Empty files are skipped: their process is about to write, or was killed before it did.
    """
    found: list[tuple[int, Path]] = []
    for kind in kinds:
        with suppress(OSError):
            for path in conversations_folder(kind).iterdir():
                with suppress(OSError):
                    status = path.stat()
                    if path.suffix == _SUFFIX and stat.S_ISREG(status.st_mode) and status.st_size:
                        found.append((status.st_mtime_ns, path))
    return [path for _, path in sorted(found, reverse=True)]


def find_conversation(name: str, kinds: Sequence[ConversationKind] = (ConversationKind.CHAT,)) -> Path:
    """The file of one of `kinds` whose id is `name`, or begins or ends with it.

    Raises:
        UsageError: there is none, or more than one.
    """
    paths = conversation_files(kinds)
    found = [path for path in paths if path.stem == name]
    found = found or [path for path in paths if name and (path.stem.startswith(name) or path.stem.endswith(name))]
    what, where = _SHOWN[tuple(kinds)]
    if not found:
        raise UsageError(f"There is no {what} {name!r}; {where}.")
    if len(found) > 1:
        raise UsageError(f"{len(found)} {what}s are called {name}...; {where}.")
    return found[0]


def remove_conversation(path: Path) -> None:
    """Delete a file.

    Raises:
        LlmcliError: another process is writing to it, or the file system refuses.
    """
    try:
        with path.open("rb+", buffering=0) as file:
            _lock(file, path)
            path.unlink()
    except OSError as error:
        raise LlmcliError(f"{path} cannot be removed: {error.strerror}.") from error


def _record(line: bytes, place: str) -> Record:
    try:
        return from_line(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise LlmcliError(f"{place}, is damaged: not UTF-8.") from None
    except ValueError as error:
        raise LlmcliError(f"{place}, is damaged: {error}.") from None


def _apply(tree: Tree, record: Record, place: str) -> None:
    try:
        tree.apply(record)
    except LlmcliError as error:
        raise LlmcliError(f"{place}, is damaged: {error}") from None


def _split(data: bytes) -> tuple[bytes, bytes]:
    """Split `data` into its whole lines and an incomplete last line."""
    whole, end, last = data.rpartition(b"\n")
    whole += end
    try:
        from_line(last.decode("utf-8"))
    except ValueError:
        return whole, last
    # Only the line end is missing, which an editor may have removed.
    return data + b"\n", b""


def _repair_end(file: FileIO, path: Path) -> None:
    """Remove an incomplete last line, or add a missing line end."""
    data = path.read_bytes()
    whole, torn = _split(data)
    if torn:
        os.ftruncate(file.fileno(), len(whole))
    elif len(whole) > len(data):
        file.write(b"\n")


def _lock(file: FileIO, path: Path) -> None:
    """Lock the file for this process until it is closed.

    The file itself is locked, because a killed process would leave a separate lock file behind.
    """
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        return
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LlmcliError(
            f"The conversation {path.stem} is open in another llm chat or generate; end that first."
        ) from None
    except OSError:
        return  # a file system without locks
