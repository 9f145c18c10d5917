"""The log of a server: a line of JSON for each request to compute something, without texts unless they are wanted."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeAlias

from llmcli.engine.events import Finish
from llmcli.errors import LlmcliError
from llmcli.text.chat_template.json_text import json_text

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An ASGI application."""

# They compute nothing.
_NOT_LOGGED = ("/internal/cancel", "/internal/stop")
# Of a longer body the beginning is logged.
_LARGEST_BODY = 1 << 20


@dataclass
class LoggedRequest:
    """What the line of a request says, as far as it is known."""

    route: str
    status: int | None = None
    """The HTTP status; None if the client was gone before an answer."""
    replies: list[Finish] = field(default_factory=list)
    saved: bool = False
    """Whether the client keeps the reply in a saved conversation."""
    request: bytearray = field(default_factory=bytearray)
    response: bytearray = field(default_factory=bytearray)


_current: ContextVar[LoggedRequest | None] = ContextVar("logged_request", default=None)


def log_reply(finish: Finish) -> None:
    """Add a reply to the line of the request that this task answers, if there is a log."""
    request = _current.get()
    if request is not None:
        request.replies.append(finish)


def log_saved() -> None:
    """Note in the line of this task's request that its client saves the reply."""
    request = _current.get()
    if request is not None:
        request.saved = True


class RequestLog:
    """Appends lines to a file that only this user can read."""

    def __init__(self, path: Path, model: str, *, bodies: bool = False, tell: Callable[[str], None]) -> None:
        """With `bodies`, the texts of requests and answers are logged too.

        `tell` is called once with a sentence if the file cannot be written to later.

        Raises:
            LlmcliError: it cannot be written to now.
        """
        self.bodies = bodies
        self._model, self._path, self._tell = model, path, tell
        self._lock, self._has_failed = threading.Lock(), False
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LlmcliError(f"The log {path} cannot be written: {error.strerror}.") from None

    def write(self, request: LoggedRequest, seconds: float) -> None:
        """Append the line of a request that took `seconds`; an error does not stop the server."""
        stats = [reply.stats for reply in request.replies]
        value: dict[str, object] = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "route": request.route,
            "status": request.status,
            "model": self._model,
            "seconds": round(seconds, 6),
            "replies": len(stats),
            "prompt_tokens": sum(each.prompt_tokens for each in stats),
            "cached_tokens": sum(each.cached_tokens for each in stats),
            "generated_tokens": sum(each.generated_tokens for each in stats),
            "ttft_s": stats[0].ttft_s if stats else None,
            "tokens_per_s": stats[0].decode_tokens_per_s if len(stats) == 1 else None,
            "finish_reason": request.replies[0].reason if len(stats) == 1 else None,
            "saved": request.saved,
        }
        if self.bodies:
            value |= {"request": _readable(request.request), "response": _readable(request.response)}
        data = (json_text(value) + "\n").encode()
        with self._lock:
            try:
                # One call, so that a line is whole even if several processes write to the file.
                written = os.write(self._file, data)
                if written < len(data):
                    raise OSError(28, "No space left on device")
            except OSError as error:
                if not self._has_failed:
                    self._tell(f"The log {self._path} cannot be written any more: {error.strerror}.")
                self._has_failed = True

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class RequestLogMiddleware:
    """Writes a line for each request to paths that compute something."""

    def __init__(self, app: Application, log: RequestLog) -> None:
        self._app, self._log = app, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and log it at its end."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] in _NOT_LOGGED:
            await self._app(scope, receive, send)
            return
        request, started = LoggedRequest(scope["path"]), time.monotonic()
        token = _current.set(request)
        try:
            await self._app(scope, _reading(receive, request, self._log), _sending(send, request, self._log))
        finally:
            _current.reset(token)
            self._log.write(request, time.monotonic() - started)


def _reading(receive: Receive, request: LoggedRequest, log: RequestLog) -> Receive:
    async def read() -> MutableMapping[str, Any]:
        message = await receive()
        if log.bodies and message["type"] == "http.request":
            request.request += message.get("body", b"")[: _LARGEST_BODY - len(request.request)]
        return message

    return read


def _sending(send: Send, request: LoggedRequest, log: RequestLog) -> Send:
    async def write(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            request.status = message["status"]
        elif log.bodies and message["type"] == "http.response.body":
            request.response += message.get("body", b"")[: _LARGEST_BODY - len(request.response)]
        await send(message)

    return write


def _readable(body: bytes | bytearray) -> object:
    """A body as JSON if it is JSON, else as text."""
    text = bytes(body).decode("utf-8", errors="replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
