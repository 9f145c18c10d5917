"""What the server refuses: keys, hosts, origins, sizes, slow clients, paths."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import llmcli
from llmcli import LlmcliError, LoadedModel
from llmcli.errors import UsageError
from llmcli.server.http import protocol
from llmcli.server.http.listening import passed_sockets, tcp_socket
from llmcli.server.run import RunningServer, ServeSettings
from tests.support.models.tiny_checkpoints import shared_checkpoint
from tests.support.server import TestServer, serving

KEY = "a-secret"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return llmcli.load(shared_checkpoint("llama"))


@pytest.fixture(scope="module")
def server(model: LoadedModel) -> Iterator[TestServer]:
    settings = ServeSettings(api_key=KEY, origins=("https://good.example",), request_s=0.3)
    with serving(model, settings) as running:
        yield running


def keyed(**more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEY}", **more}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
        {"X-Api-Key": "é"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/nowhere", "/internal/stop"])
def test_every_path_needs_the_key(server: TestServer, headers: dict[str, str], path: str) -> None:
    answer = server.ask("POST", path, CHAT, headers)
    assert answer.status == 401
    assert answer.json["error"]["type"] == "authentication_error"
    assert KEY not in answer.body.decode()


def test_the_key_is_read_from_two_headers_and_health_needs_none(server: TestServer) -> None:
    assert server.ask("POST", "/v1/chat/completions", CHAT, keyed()).status == 200
    assert server.ask("POST", "/v1/chat/completions", CHAT, {"X-Api-Key": KEY}).status == 200
    assert server.ask("GET", "/health").json == {"status": "ok"}


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "localhost@evil", "[::1"]
)
def test_a_foreign_host_is_refused(server: TestServer, host: str) -> None:
    answer = server.ask("GET", "/v1/models", headers=keyed(Host=host))
    assert (answer.status, answer.json["error"]["code"]) == (403, "host_not_allowed")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:99", "[::1]:8080"])
def test_names_of_this_machine_are_hosts(server: TestServer, host: str) -> None:
    assert server.ask("GET", "/v1/models", headers=keyed(Host=host)).status == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "http://good.example", "null", "https://good.example.evil"])
def test_a_foreign_origin_is_refused(server: TestServer, origin: str) -> None:
    answer = server.ask("POST", "/v1/chat/completions", CHAT, keyed(Origin=origin))
    assert (answer.status, answer.json["error"]["code"]) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in answer.headers
    preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    assert server.ask("OPTIONS", "/v1/chat/completions", headers=preflight).status == 403


def test_an_allowed_origin_gets_cors_headers(server: TestServer) -> None:
    origin = "https://good.example"
    preflight = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-api-key",
    }
    answer = server.ask("OPTIONS", "/v1/chat/completions", headers=preflight)
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (204, origin)
    assert answer.headers["access-control-allow-headers"] == "x-api-key"
    answer = server.ask("POST", "/v1/chat/completions", CHAT, keyed(Origin=origin))
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, origin)
    assert server.ask("GET", "/v1/models", headers=keyed()).headers.get("access-control-allow-origin") is None


def test_a_body_of_more_than_10_mib_is_refused(server: TestServer) -> None:
    answer = server.ask("POST", "/v1/chat/completions", headers=keyed(**{"Content-Length": str(11 << 20)}))
    assert answer.status == 413
    chunk = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
    head += "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with server.raw(head.encode()) as connection:
        for _ in range(11):
            connection.sendall(chunk)
        assert b" 413 " in connection.recv(100)


def test_the_answer_to_a_large_body_is_not_lost(model: LoadedModel) -> None:
    with serving(model, ServeSettings(api_key=KEY)) as running:
        for headers, status in ((keyed(), 413), ({}, 401)):
            answer = running.ask("POST", "/v1/chat/completions", b"x" * (40 << 20), headers)
            assert answer.status == status


def test_headers_of_more_than_64_kib_are_refused(server: TestServer) -> None:
    assert server.ask("GET", "/v1/models", headers=keyed(X="x" * (63 << 10))).status == 200
    for path, more in (("/v1/models", keyed(X="x" * 70_000)), ("/v1/models?" + "x" * 70_000, keyed())):
        answer = server.ask("GET", path, headers=more)
        assert (answer.status, answer.json["error"]["type"]) == (431, "invalid_request_error")


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"", {"Content-Type": "application/json"}, 400),
        (b"\xff", {"Content-Type": "application/json"}, 400),
        (b"[]", {"Content-Type": "application/json"}, 400),
        (b"[" * 100_000, {"Content-Type": "application/json"}, 400),
        (b'{"messages": ', {"Content-Type": "application/json; charset=utf-8"}, 400),
    ],
)
def test_a_body_that_is_not_a_json_object_is_refused(
    server: TestServer, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = server.ask("POST", "/v1/chat/completions", body, keyed(**headers))
    assert answer.status == status
    assert answer.json["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "path", ["/../health", "/v1/../internal/status", "//v1/models", "/internal/status", "/%2e%2e/etc"]
)
def test_only_known_paths_are_answered(server: TestServer, path: str) -> None:
    answer = server.ask("GET", path, headers=keyed())
    assert (answer.status, answer.json["error"]["type"]) == (404, "not_found_error")


def test_a_known_path_with_another_method_is_refused(server: TestServer) -> None:
    answer = server.ask("GET", "/v1/chat/completions", headers=keyed())
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert answer.json["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: a-secret\r\nContent-Length: 9\r\n"
        b"Content-Type: application/json\r\n\r\n{",
    ],
)
def test_a_client_that_is_too_slow_is_disconnected(server: TestServer, sent: bytes) -> None:
    with server.raw(sent) as connection, suppress(ConnectionResetError):
        assert connection.recv(100) == b""


@pytest.mark.parametrize("sent", [b"HELLO\r\n\r\n", b"GET /health HTTP/1.1\r\nX: " + b"x" * (70 << 10)])
def test_what_is_not_http_is_refused(server: TestServer, sent: bytes) -> None:
    with server.raw(sent) as connection:
        answer = b"".join(iter(lambda: connection.recv(1000), b""))
        assert answer.startswith(b"HTTP/1.1 400 ") and b'"invalid_request_error"' in answer


def test_the_private_socket_needs_no_key_and_is_this_users_only(
    server: TestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(server.state.socket)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert server.ask("GET", "/v1/models", private=True).status == 200
    assert server.ask("GET", "/internal/status", private=True).json["busy"] == 0
    monkeypatch.setattr(protocol, "peer_uid", lambda connection: os.getuid() + 1)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(server.state.socket)
        with suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
            assert connection.recv(100) == b""


def test_other_machines_need_a_key(model: LoadedModel) -> None:
    with pytest.raises(UsageError, match="--api-key"):
        RunningServer(model.name, ServeSettings(host="0.0.0.0", port=0), {})
    with serving(model, ServeSettings(host="0.0.0.0", api_key=KEY)) as running:
        assert running.ask("GET", "/v1/models", headers=keyed(Host="any.example")).status == 200
        assert running.ask("GET", "/v1/models", headers=keyed(Origin="https://evil.example")).status == 403


def test_addresses_that_cannot_be_used_are_errors(server: TestServer) -> None:
    with pytest.raises(LlmcliError, match=r"cannot listen on 127\.0\.0\.1 port"):
        tcp_socket("127.0.0.1", server.state.port or 0)
    with pytest.raises(UsageError, match="no address"):
        tcp_socket("not a name", 0)


def test_sockets_of_systemd_are_for_this_process_only() -> None:
    assert passed_sockets({"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1"}) == []
    assert passed_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "x"}) == []
    assert passed_sockets({}) == []


def test_a_socket_of_systemd_is_listened_on() -> None:
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    with tcp_socket("127.0.0.1", 0) as listening:
        [passed] = passed_sockets(environment, os.dup(listening.fileno()))
        with passed:
            assert passed.getsockname() == listening.getsockname() and not passed.get_inheritable()
    with socket.socket() as connected, pytest.raises(LlmcliError, match="ListenStream"):
        passed_sockets(environment, os.dup(connected.fileno()))
