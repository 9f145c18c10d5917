"""Connections: which application answers each, and how long a client may take to send a request or read an answer."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable
from typing import Any

import h11
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from llmcli.server.http.errors import ApiError
from llmcli.server.registry import peer_uid


def connection_class(public: ASGIApp, private: ASGIApp, *, request_s: float, send_s: float) -> type[H11Protocol]:
    """The class of connections.

    Those over a unix socket are answered by `private`, if the process at the other end has this user, others by
    `public`. A connection is closed if a request is not complete `request_s` seconds after it was opened, or after the
    first byte of a later request; or if for `send_s` seconds the client reads too little of an answer for more to be
    sent. What is computed for it then ends.
    """

    class Connection(H11Protocol):
        """A connection with limits."""

        _timer: asyncio.TimerHandle | None = None
        _send_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            """Choose the application by the kind of socket."""
            super().connection_made(transport)
            connection: socket.socket = transport.get_extra_info("socket")
            is_unix = connection.family == socket.AF_UNIX
            self.app = private if is_unix else public
            if is_unix and peer_uid(connection) not in (None, os.getuid()):
                transport.abort()
                return
            self._wait_for_request()

        def data_received(self, data: bytes) -> None:
            """Take bytes of a request."""
            super().data_received(data)
            # Between requests the keep-alive timer runs, which the first byte of the next one stops.
            if self._is_complete:
                self._stop_waiting()
            elif self._timer is None:
                self._wait_for_request()

        def connection_lost(self, exc: Exception | None) -> None:
            """The connection is closed."""
            self._stop_waiting()
            self._stop_send_timer()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            """So much has not been read that nothing more is sent."""
            super().pause_writing()
            self._send_timer = self.loop.call_later(send_s, self.transport.abort)

        def resume_writing(self) -> None:
            """The client has read enough for more to be sent."""
            self._stop_send_timer()
            super().resume_writing()

        def send_400_response(self, msg: str) -> None:
            """Answer what is not HTTP, or has too large headers, in the shape of the other errors."""
            body = json.dumps(ApiError(msg).value).encode()
            headers = [
                ("content-type", "application/json"),
                ("connection", "close"),
                ("content-length", str(len(body))),
            ]
            response = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

        @property
        def _is_complete(self) -> bool:
            cycle: Any = self.cycle
            return cycle is not None and not cycle.more_body

        def _wait_for_request(self) -> None:
            self._timer = self.loop.call_later(request_s, self._give_up)

        def _stop_waiting(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _stop_send_timer(self) -> None:
            if self._send_timer is not None:
                self._send_timer.cancel()
                self._send_timer = None

        def _give_up(self) -> None:
            self._timer = None
            close: Callable[[], None] = self.transport.abort
            close()

    return Connection
