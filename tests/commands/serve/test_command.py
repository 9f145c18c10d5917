"""`llm serve`: how it starts and how it ends."""

from __future__ import annotations

import http.client
import json
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmcli.server.registry import running_servers
from tests.support.forked import ForkedProcess
from tests.support.models.puppet import loop, write_puppet
from tests.support.terminal.cli import llm, start

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_puppet(tmp_path_factory.mktemp("serve") / "puppet", loop(b"abc"), context=50_000)


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="llm") as name:
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        yield Path(name)


def started(folder: Path, *more: object) -> tuple[ForkedProcess, int]:
    """A server that is ready, and its port."""
    process = start("serve", folder, "--port", 0, *more)
    lines = [process.stdout.readline().decode() for _ in range(3)]
    assert " is ready after " in lines[0], lines
    return process, int(lines[2].rsplit(":", 1)[1].partition("/")[0])


@contextmanager
def asking(port: int, **fields: object) -> Iterator[http.client.HTTPResponse]:
    """The beginning of a stream of a reply."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "temperature": 0, **fields}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200
    response.readline()
    yield response
    response.close()
    connection.close()


def test_sigterm_lets_it_finish_what_runs(folder: Path, runtime: Path) -> None:
    process, port = started(folder)
    [state] = running_servers()
    assert (state.pid, state.port) == (process.pid, port)
    with asking(port, max_tokens=3000) as response:
        process.send_signal(signal.SIGTERM)
        said = response.read().decode()
    assert said.count('"content": "') > 2900 and said.endswith("data: [DONE]\n\n")
    out, err = process.communicate(timeout=30)
    assert (process.wait(10), out) == (0, b"")
    assert b"Traceback" not in err
    assert list((runtime / "llmcli").iterdir()) == []


def test_a_second_ctrl_c_ends_it_at_once(folder: Path, runtime: Path) -> None:
    process, port = started(folder)
    with asking(port) as response:
        process.send_signal(signal.SIGINT)
        # Two signals of one number that come together are one.
        while running_servers():
            response.readline()
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.wait(10) == 130
    assert b"Traceback" not in err
    assert list((runtime / "llmcli").iterdir()) == []


def test_it_ends_when_it_is_idle(folder: Path) -> None:
    process, _ = started(folder, "--keep", "0.1s")
    process.communicate(timeout=30)
    assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--host", "0.0.0.0"], b"--api-key"),
        (["--keep", "soon"], b"forever"),
        (["--keep", "0s"], b"forever"),
        (["--cors-origin", "example.org"], b"https://example.org"),
        (["--port", "70000"], b"from 0 to 65535"),
        (["--parallel", "33"], b"from 1 to 32"),
    ],
)
def test_a_wrong_flag_is_an_error(folder: Path, flags: list[str], words: bytes) -> None:
    result = llm("serve", folder, *flags)
    assert result.returncode == 2
    assert words in result.stderr
