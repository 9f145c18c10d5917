"""A server that sends prepared bytes, for tests of what clients make of them."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from unittest import mock

from llmcli.server.registry import Identity, Registration, ServerState

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n"


@dataclass
class CannedServer:
    """A registered server; it answers the requests one after another."""

    state: ServerState
    registration: Registration
    answers: list[bytes | Callable[[socket.socket], None]] = field(default_factory=list)
    """What is sent to each request, or does it."""
    requests: list[bytes] = field(default_factory=list)
    """The first line of each request, and its body."""

    def release(self) -> None:
        """Free the name and its lock, as the end of a process does."""
        self.registration.close()
        _unlock(self.registration)


@contextmanager
def canned_server(identity: Identity, *, beside: CannedServer | None = None) -> Iterator[CannedServer]:
    """A server of this user that clients find while the block runs; in the same folder as another, if given."""
    with ExitStack() as stack:
        if beside is None:
            # A short path: that of a socket has at most 100 bytes.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="llm"))
            stack.enter_context(mock.patch.dict(os.environ, {"XDG_RUNTIME_DIR": folder}))
        registration = Registration("canned")
        started = 1.0 if beside is None else 2.0
        socket_path = str(registration.socket)
        state = ServerState(registration.name, os.getpid(), started, "m", identity, socket_path, "cpu", 100)
        server = CannedServer(state, registration)
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(state.socket)
        listening.listen()
        registration.publish(state)
        threading.Thread(target=_serve, args=(listening, server), daemon=True).start()
        try:
            yield server
        finally:
            # Wakes the thread.
            listening.shutdown(socket.SHUT_RDWR)
            registration.close()


def _unlock(registration: Registration) -> None:
    """Unlock, whether or not closing a registration did."""
    with suppress(OSError, ValueError):
        fcntl.flock(registration._lock, fcntl.LOCK_UN)


def _serve(listening: socket.socket, server: CannedServer) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        with connection:
            server.requests.append(_request(connection))
            answer = server.answers.pop(0)
            if callable(answer):
                answer(connection)
            else:
                connection.sendall(answer)


def _request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(1 << 16)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().rpartition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(1 << 16)
    return head.split(b"\r\n")[0] + b"\n" + body
