"""`llm ps` lists the running servers, and `llm stop` ends one."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator

import pytest

from llmcli.server.registry import Identity
from tests.support.canned_server import OK, CannedServer, canned_server
from tests.support.terminal.cli import llm

STATUS = OK + b'{"memory_bytes": 3145728, "idle_s": 200.0, "busy": 0, "requests": 7}'


@pytest.fixture
def server() -> Iterator[CannedServer]:
    with canned_server(Identity("1", ())) as server:
        yield server


def test_servers_are_listed_with_what_they_do(server: CannedServer) -> None:
    server.answers = [STATUS, STATUS, b""]
    heading, row = (line.split("  ") for line in llm("ps").stdout.decode().splitlines())
    cells = [cell.strip() for cell in row if cell]
    assert [cell.strip() for cell in heading if cell] == [
        "NAME", "MODEL", "PID", "MEMORY", "PORT", "UP", "IDLE", "REQUESTS",
    ]  # fmt: skip
    assert cells[:5] == ["canned", "m", str(os.getpid()), "3 MiB", "-"]
    assert cells[5].endswith(" d") and cells[6:] == ["3 min", "7"]
    (value,) = json.loads(llm("ps", "--json").stdout)
    assert (value["name"], value["idle_s"], value["requests"]) == ("canned", 200.0, 7)
    # One that does not answer is listed too.
    (value,) = json.loads(llm("ps", "--json").stdout)
    assert (value["pid"], value["memory_bytes"], value["busy"]) == (os.getpid(), None, None)


def test_without_servers_there_is_nothing_to_list_or_stop(server: CannedServer) -> None:
    server.registration.close()
    for command in ("ps", "stop"):
        result = llm(command)
        assert (result.returncode, result.stdout) == (0, b"") and b"No server is running" in result.stderr
    named = llm("stop", "canned")
    assert named.returncode == 2 and b"There is no running server 'canned'" in named.stderr


@pytest.mark.parametrize("name", [[], ["canned"], ["m"]])
def test_stop_returns_when_the_lock_of_the_process_is_free(server: CannedServer, name: list[str]) -> None:
    freed: list[float] = []

    def end(connection: socket.socket) -> None:
        connection.sendall(OK + b"{}")
        connection.close()
        server.registration.withdraw()
        time.sleep(0.2)
        freed.append(time.monotonic())
        server.release()

    server.answers = [end]
    result = llm("stop", *name)
    assert result.returncode == 0 and f"Stopped canned (pid {os.getpid()})".encode() in result.stderr
    assert freed and time.monotonic() >= freed[0]
    assert server.requests[0].startswith(b"POST /internal/stop ")


def test_a_server_is_named_if_there_are_several(server: CannedServer) -> None:
    with canned_server(Identity("1", ()), beside=server):
        result = llm("stop")
        assert result.returncode == 2 and b"2 servers are running; name one of canned-2, canned." in result.stderr
        assert b"2 servers hold m" in llm("stop", "m").stderr
        unknown = llm("stop", "x")
        assert unknown.returncode == 2 and b"there is canned-2, canned" in unknown.stderr


def test_a_server_that_does_not_answer_is_an_error(server: CannedServer) -> None:
    server.answers = [b""]
    result = llm("stop")
    assert result.returncode == 1 and f"kill {os.getpid()}".encode() in result.stderr
