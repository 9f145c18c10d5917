"""Requests to a server, with nothing but the standard library's sockets.

HTTP/1.0 is spoken, in which an answer ends with the connection: so its lines can be read as they come.
"""

from __future__ import annotations

import json
import os
import select
import socket
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

from llmcli.errors import (
    CheckpointError,
    LlmcliError,
    ModelNotFoundError,
    OutOfMemoryError,
    PromptTooLongError,
    UsageError,
)
from llmcli.server.registry import ServerState, connect

if TYPE_CHECKING:
    from llmcli.engine.interrupt import Interruption

_PIECE, _LARGE_PIECE = 1 << 16, 1 << 20
_LARGEST_HEADERS = 1 << 16
_ERRORS: dict[int, type[LlmcliError]] = {
    error.exit_code: error
    for error in (LlmcliError, UsageError, ModelNotFoundError, CheckpointError, OutOfMemoryError, PromptTooLongError)
}


class NoServerError(LlmcliError):
    """The server does not answer, or takes no more requests."""


class ServerEndedError(LlmcliError):
    """The server ended in the middle of its answer."""

    def __init__(
        self, what: str, advice: str = "Run the command again: without a server it loads the model itself."
    ) -> None:
        super().__init__(f"{what} {advice}")
        self.what = what


def error_of(message: str, exit_code: int) -> LlmcliError:
    """The error with this exit code."""
    return _ERRORS.get(exit_code, LlmcliError)(message)


def server_ended(server: ServerState, during: str) -> ServerEndedError:
    """The error of a server that ended during an answer."""
    what = f"The server {server.name} (pid {server.pid}) ended during {during}."
    return ServerEndedError(what) if server.url is None else ServerEndedError(what, "Run the command again.")


def not_ours(address: str) -> LlmcliError:
    """The error of an address where another program answers."""
    return LlmcliError(f"What answers at {address} is not a server of llm serve, or is one of another version.")


def _name(server: ServerState) -> str:
    return f"The server {server.name}" if server.url is None else f"The server at {server.url}"


class ServerAnswer:
    """The answer to one request: its body is read line by line."""

    def __init__(
        self, server: ServerState, path: str, body: str | None = None, *, timeout_s: float | None = None
    ) -> None:
        """Send a request, a POST of JSON or without a `body` a GET, and read the headers of the answer.

        Raises:
            NoServerError: nothing answers, or the server takes no more requests.
            LlmcliError: the server refuses the request, or another user's process answers.
        """
        self._server, self._pending = server, b""
        try:
            self._socket = connect(server, timeout_s)
        except OSError as error:
            raise self._gone(f"{_name(server)} does not answer: {error.strerror or error}.") from None
        try:
            self._send(path, body)
            status = self._head()
            if status != 200:
                raise self._refusal(status)
        except OSError as error:
            self.close()
            raise self._gone(f"{_name(server)} does not answer: {error.strerror or error}.") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection, which ends what the server computes for it."""
        self._socket.close()

    def abort(self) -> None:
        """End the connection; a thread that waits for a line gets the end of the answer."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def line(self, interruption: Interruption | None = None) -> bytes | None:
        """The next line; None at the end of the answer. A request of `interruption` raises `KeyboardInterrupt`.

        Raises:
            LlmcliError: the connection broke.
        """
        while True:
            line, end, rest = self._pending.partition(b"\n")
            if end:
                self._pending = rest
                return line
            # Only the waiting can be interrupted: no data is lost.
            with nullcontext() if interruption is None else interruption.computing():
                select.select([self._socket], [], [], self._socket.gettimeout())
            try:
                data = self._socket.recv(_PIECE)
            except OSError:
                data = b""
            if not data:
                self._pending = b""
                return line or None
            self._pending += data

    def data(self, count: int) -> bytes:
        """The next `count` bytes, which are no lines; fewer if the answer ends before."""
        pieces, missing = [self._pending[:count]], count - len(self._pending)
        self._pending = self._pending[count:]
        while missing > 0:
            try:
                data = self._socket.recv(min(missing, _LARGE_PIECE))
            except OSError:
                data = b""
            if not data:
                break
            pieces.append(data)
            missing -= len(data)
        return b"".join(pieces)

    def lines(self) -> Iterator[bytes]:
        """All further lines."""
        while (line := self.line()) is not None:
            yield line

    def json(self) -> Any:
        """The whole body as JSON.

        Raises:
            LlmcliError: it is not JSON.
        """
        try:
            return json.loads(b"\n".join(self.lines()))
        except ValueError:
            if self._server.url is not None:
                raise not_ours(self._server.url) from None
            raise LlmcliError(f"The server {self._server.name} ended during its answer.") from None
        finally:
            self.close()

    def _send(self, path: str, body: str | None) -> None:
        data = b"" if body is None else body.encode()
        method = "GET" if body is None else "POST"
        head = f"{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\n"
        if self._server.over_tcp:
            host = f"[{self._server.host}]" if ":" in (self._server.host or "") else self._server.host
            head += f"Host: {host}:{self._server.port}\r\n"
            if key := os.environ.get("LLMCLI_API_KEY"):
                head += f"Authorization: Bearer {key}\r\n"
        else:
            head += "Host: localhost\r\n"
        self._socket.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)

    def _head(self) -> int:
        """Read the headers, and return the status."""
        while b"\r\n\r\n" not in self._pending:
            data = self._socket.recv(_PIECE)
            if not data or len(self._pending) > _LARGEST_HEADERS:
                raise self._gone(f"{_name(self._server)} ended before it answered.")
            self._pending += data
        head, _, self._pending = self._pending.partition(b"\r\n\r\n")
        words = head.split(b"\r\n", 1)[0].split()
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
            raise LlmcliError(f"{self._server.url or self._server.socket} does not speak HTTP.")
        return int(words[1])

    def _refusal(self, status: int) -> LlmcliError:
        """The error that an answer with this status describes."""
        try:
            found = json.loads(b"\n".join(self.lines()))["error"]
            message, code = str(found["message"]), int(found.get("exit_code", 1))
        except (ValueError, KeyError, TypeError):
            message, code = f"{_name(self._server)} answered with the status {status}.", 1
        if status in (404, 405) and self._server.url is not None:
            return not_ours(self._server.url)
        if status == 401 and self._server.over_tcp:
            return UsageError(f"{_name(self._server)} needs a key: set LLMCLI_API_KEY to it.")
        return self._gone(message) if status == 503 else error_of(message, code)

    def _gone(self, message: str) -> LlmcliError:
        """The error of a server that cannot be used; for one that the user has named nothing else is."""
        return NoServerError(message) if self._server.url is None else LlmcliError(message)


def request_json(server: ServerState, path: str, body: Mapping[str, object] | None = None, *, timeout_s: float) -> Any:
    """The JSON that a server answers to a short request.

    Raises:
        LlmcliError: it does not answer within `timeout_s` seconds, or refuses.
    """
    return ServerAnswer(server, path, None if body is None else json.dumps(body), timeout_s=timeout_s).json()
