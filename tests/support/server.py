"""A server in this process, as `llm serve` runs it, with its connections on a free port and a private socket."""

from __future__ import annotations

import http.client
import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.loaded_model import LoadedModel
from llmcli.server.registry import Identity, ServerState, connect
from llmcli.server.run import RunningServer, ServeSettings

IDENTITY = Identity("test", (("/model", 1, 2),))


@dataclass(frozen=True)
class Answer:
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The JSON in its body."""
        return json.loads(self.body)


@dataclass(frozen=True)
class TestServer:
    """A server that answers."""

    __test__ = False

    server: RunningServer
    state: ServerState
    told: list[str]
    """What it has told about failures of the program."""

    @property
    def url(self) -> str:
        """The address for clients of OpenAI's API."""
        return f"http://127.0.0.1:{self.state.port}/v1"

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        private: bool = False,
    ) -> Answer:
        """Send a request; `body` is bytes, or a value for JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.state.port, timeout=30)
        if private:
            connection.sock = connect(self.state, 30)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        kind = {} if body is None else {"Content-Type": "application/json"}
        try:
            connection.request(method, path, data, {**kind, **(headers or {})})
            found = connection.getresponse()
            return Answer(found.status, {name.lower(): value for name, value in found.getheaders()}, found.read())
        finally:
            connection.close()

    def post(self, path: str, **body: object) -> Answer:
        """Send a request with JSON."""
        return self.ask("POST", path, body)

    def raw(self, data: bytes) -> socket.socket:
        """A TCP connection on which `data` has been sent."""
        connection = socket.create_connection(("127.0.0.1", self.state.port or 0), 30)
        connection.sendall(data)
        return connection


@contextmanager
def serving(
    loaded: LoadedModel, settings: ServeSettings | None = None, identity: Identity = IDENTITY
) -> Iterator[TestServer]:
    """Serve a model while the block runs; the port is free unless `settings` give one."""
    settings = settings or ServeSettings()
    told: list[str] = []
    # A short path: that of a socket has at most 100 bytes.
    with tempfile.TemporaryDirectory(prefix="llm") as folder, mock.patch.dict(os.environ, {"XDG_RUNTIME_DIR": folder}):
        if settings.port is None:
            settings = replace(settings, port=0)
        server = RunningServer(loaded.name, settings, {}, tell=told.append)
        try:
            state = server.ready(loaded, open_checkpoint(loaded.source), identity, threads=1)
            computing = threading.Thread(target=server.compute, name="compute")
            computing.start()
            try:
                yield TestServer(server, state, told)
            finally:
                server.stop()
                computing.join(30)
                assert not computing.is_alive()
        finally:
            server.close()
    assert told == []
