"""How a client finds a running server: a folder with a socket and a small JSON file for each.

Contract between `llm serve` and its clients, all of one user on one machine:

- The folder is `server_folder()`, with mode 0700: `$XDG_RUNTIME_DIR/llmcli`, or without that variable
  `llmcli/run` in the data folder.
- A server called NAME owns three files in it. `NAME.lock` is locked (flock) for as long as the process lives: a file
  that can be locked belongs to no server. `NAME.sock`, with mode 0600, is the unix socket; HTTP/1.1 and HTTP/1.0 are
  spoken there without a key. `NAME.json` holds a `ServerState`; it is written last, once the model is loaded and the
  socket answers, and removed first. So a state file of a living server means a server that answers.
- A server holds what a client wants if `ServerState.holds` the client's `Identity`: the same files of the model (real
  path, size and time of change of each), the same requested device, dtype and quantization, the same edits, chat
  template and context, and the same program version. Anything else is answered by a model that the client loads itself.
- The client checks with SO_PEERCRED that the process behind the socket has its own user id (`peer_uid`); so does the
  server.

`POST /internal/generate` and its like (see `llmcli.server.wire`), and `GET /internal/server`, which describes the
server without paths of this machine, are answered over TCP too, for a client that names the server by its address.
Paths of the private socket only: `GET /internal/status` (the state with `busy`, `waiting`, `idle_s`, `memory_bytes`,
`cache_bytes` and `requests`), and `POST /internal/stop`, which answers at once; the server then finishes what runs and
ends. It keeps its lock until the process is gone, although it
removes the files before: a client that has opened `NAME.lock` before can lock it as soon as the memory is free.
This module imports neither torch nor the tokenizer.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeAlias

from llmcli.errors import LlmcliError
from llmcli.files import replace_text
from llmcli.paths import server_folder

FileMark: TypeAlias = tuple[str, int, int]
"""A file's real path, its size in bytes, and the time of its last change in nanoseconds."""

_SHARD = re.compile(r"-\d{5}-of-(\d{5})(?=\.)")
# Longer paths of unix sockets are refused by the system: 108 bytes with the final zero, 104 on macOS.
_LONGEST_PATH = 100


@dataclass(frozen=True)
class Identity:
    """Everything that decides which bits a loaded model computes, as the user asked for it."""

    version: str
    files: tuple[FileMark, ...]
    device: str = "auto"
    dtype: str = "auto"
    quantize: str | None = None
    edits: tuple[FileMark, ...] = ()
    template: str | None = None
    """The name of the chat template that was asked for, or the SHA-256 of the source of a template file."""
    context: int | None = None
    kv_cache: str = "auto"
    ranks: int = 1
    """The processes that the model is split over: their sums have other roundings than those of one."""


@dataclass(frozen=True)
class ServerState:
    """The contents of a server's state file."""

    name: str
    pid: int
    started: float
    """Seconds since the epoch."""
    model: str
    """The display name of the model."""
    identity: Identity
    socket: str
    path: str
    """The name of the step that computes, for display."""
    vocab_size: int
    """How many tokens the tokenizer of the model has."""
    host: str | None = None
    port: int | None = None
    """The TCP address it also listens on; None for the socket alone."""
    context_length: int | None = None
    """The most tokens of prompt and reply together."""
    url: str | None = None
    """The address by which a user has named it; None for a server that was found by its files."""

    @property
    def over_tcp(self) -> bool:
        """Whether a user has named it by a TCP address."""
        return self.url is not None and not self.url.startswith("unix:")

    def holds(self, wanted: Identity) -> bool:
        """Whether this server computes what a client with the identity `wanted` would compute.

        A client may want a smaller context, which its requests name.
        """
        own = self.identity
        fits = own.context is None or (wanted.context is not None and wanted.context <= own.context)
        return fits and replace(own, context=None) == replace(wanted, context=None)


def file_marks(paths: Sequence[Path]) -> tuple[FileMark, ...]:
    """A mark for each of `paths`, sorted.

    Raises:
        OSError: a file cannot be read.
    """
    marks = []
    for path in paths:
        real = Path(os.path.realpath(path))
        status = real.stat()
        marks.append((str(real), status.st_size, status.st_mtime_ns))
    return tuple(sorted(marks))


def model_files(path: Path) -> list[Path]:
    """The files of the model in `path`: all of a folder, a GGUF file, or all its shards.

    Raises:
        OSError: the folder cannot be read.
    """
    if path.is_dir():
        return [file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")]
    found = _SHARD.search(path.name)
    if found is None:
        return [path]
    pattern = f"{path.name[: found.start()]}-?????-of-{found[1]}{path.name[found.end() :]}"
    return sorted(path.parent.glob(pattern))


def template_mark(name: str | None) -> str | None:
    """How an `Identity` names a chat template: a template file by its contents.

    Raises:
        LlmcliError: the file cannot be read.
    """
    from llmcli.checkpoint.chat_template_file import is_template_file, read_template_file

    if name is None or not is_template_file(name):
        return name
    return hashlib.sha256(read_template_file(name).encode()).hexdigest()


def running_servers() -> list[ServerState]:
    """The state of every server of this user that is ready, the latest first."""
    folder = server_folder()
    states = [state for path in folder.glob("*.json") if (state := _living(path)) is not None]
    return sorted(states, key=lambda state: -state.started)


def connect(state: ServerState, timeout_s: float | None = None) -> socket.socket:
    """Connect to the private socket of a server, or to the TCP address by which a user has named it.

    Raises:
        OSError: nothing listens there.
        LlmcliError: another user's process listens at the socket.
    """
    if state.over_tcp:
        return socket.create_connection((state.host or "", state.port or 0), timeout_s)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        connection.connect(state.socket)
        if (uid := peer_uid(connection)) not in (None, os.getuid()):
            raise LlmcliError(f"{state.socket} belongs to the user {uid}; it is not used.")
    except BaseException:
        connection.close()
        raise
    return connection


def peer_uid(connection: socket.socket) -> int | None:
    """The user id of the process at the other end of a unix socket; None where the system does not say."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    size = struct.calcsize("3i")
    _pid, uid, _gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, option, size))
    return int(uid)


class Registration:
    """A server's name in the folder, held by a lock until `close` or the end of the process."""

    def __init__(self, model: str) -> None:
        """Take a free name made of `model`.

        Raises:
            LlmcliError: the folder belongs to another user, can be read by others, or its path is too long.
            OSError: the folder cannot be written.
        """
        folder = server_folder()
        _make_private(folder)
        base = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.")[:40] or "model"
        self.name, self._lock = _free_name(folder, base)
        name, lock = self.name, self._lock
        self.socket = folder / f"{name}.sock"
        self._state = folder / f"{name}.json"
        self._lock_file = folder / f"{name}.lock"
        self._closed = False
        if len(os.fsencode(self.socket)) > _LONGEST_PATH:
            os.close(lock)
            raise LlmcliError(
                f"The path of a socket can have {_LONGEST_PATH} bytes, and {self.socket} is longer. Set "
                "XDG_RUNTIME_DIR to a folder with a shorter path."
            )
        # Left behind by a process that was killed.
        self._state.unlink(missing_ok=True)
        self.socket.unlink(missing_ok=True)

    def publish(self, state: ServerState) -> None:
        """Write the state file: from now on clients find the server."""
        replace_text(self._state, json.dumps(asdict(state), indent=1) + "\n")

    def withdraw(self) -> None:
        """Remove the state file: no new client finds the server."""
        self._state.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove all files of this name, which is then free; the lock itself lasts until the process ends."""
        if not self._closed:
            self._closed = True
            self.withdraw()
            self.socket.unlink(missing_ok=True)
            self._lock_file.unlink(missing_ok=True)


def _free_name(folder: Path, base: str) -> tuple[str, int]:
    """The first of `base`, `base`-2, ... that no living server has, and the descriptor of its lock."""
    name, number = base, 1
    while True:
        path = folder / f"{name}.lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if _locked(lock, fcntl.LOCK_EX):
            # A server that ends removes its file: a lock on a removed file is not the lock of the name.
            with suppress(OSError):
                if path.stat().st_ino == os.fstat(lock).st_ino:
                    return name, lock
            os.close(lock)
            continue
        os.close(lock)
        number += 1
        name = f"{base}-{number}"


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not folder.is_dir() or folder.is_symlink() or status.st_uid != os.getuid():
        raise LlmcliError(f"{folder} is not a folder of this user, so no socket is made in it.")
    if status.st_mode & 0o077:
        folder.chmod(0o700)


def _locked(descriptor: int, kind: int) -> bool:
    """Lock an open file; False if a server holds it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _living(path: Path) -> ServerState | None:
    """The state in a file of a living process; None for a file that is damaged, or left behind."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        value = json.loads(path.read_text(encoding="utf-8"))
        given = value.pop("identity")
        for name in ("files", "edits"):
            given[name] = tuple((str(file), int(size), int(changed)) for file, size, changed in given[name])
        state = ServerState(**value, identity=Identity(**given))
        descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CLOEXEC)
        try:
            # A shared lock, so that two clients who look at the same time do not take each other for the server.
            return None if _locked(descriptor, fcntl.LOCK_SH) else state
        finally:
            os.close(descriptor)
    return None
