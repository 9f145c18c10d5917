"""`--server URL` uses the server at an address, or says why it cannot."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import llmcli
from llmcli.client.address import server_at
from llmcli.errors import LlmcliError, UsageError
from llmcli.server.registry import Identity
from llmcli.server.run import ServeSettings
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.server import TestServer, serving
from tests.support.terminal.cli import Result, llm

KEY = "a-secret"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("m"), "llama", max_position_embeddings=600)


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[TestServer]:
    # Not the files of the model: it is found by its address alone.
    identity = Identity(llmcli.__version__, tuple((str(file), file.stat().st_size, 1) for file in model.iterdir()))
    with serving(llmcli.load(model), ServeSettings(api_key=KEY), identity) as server:
        yield server


@pytest.fixture(params=["http", "unix"])
def address(request: pytest.FixtureRequest, server: TestServer, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LLMCLI_API_KEY", KEY)
    return server.url if request.param == "http" else f"unix:{server.state.socket}"


def same(model: Path, address: str, *arguments: object, stdin: bytes = b"") -> Result:
    warm = llm(*arguments, "--server", address, stdin=stdin)
    cold = llm(*arguments, "-m", model, "--server", "off", stdin=stdin)
    assert (warm.returncode, warm.stdout) == (cold.returncode, cold.stdout), warm.stderr
    assert warm.returncode == 0 and warm.stdout
    return warm


def test_commands_without_a_model_use_the_one_at_the_address(
    server: TestServer, model: Path, address: str, tmp_path: Path
) -> None:
    before = server.server.service.requests
    same(model, address, "generate", "Hi", "-n", "6", "--seed", "3", "--top", "2", "--probs")
    same(model, address, "generate", "Hi", "--choices", "a,b")
    lines = tmp_path / "in.jsonl"
    lines.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    same(model, address, "batch", lines, "-n", "4", "--seed", "1")
    same(model, address, "score", "abc")
    assert server.server.service.requests - before >= 5


def test_a_chat_needs_the_same_tokenizer_here(
    server: TestServer, model: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    run = ["chat", "-n", "6", "--seed", "4", "-m"]
    warm, cold = (llm(*run, model, "--server", where, stdin=b"Hi") for where in (address, "off"))
    assert (warm.returncode, warm.stdout, warm.stderr) == (0, cold.stdout, cold.stderr)
    other = tiny_checkpoint(tmp_path / model.name, "llama", max_position_embeddings=6000)
    found = llm(*run, other, "--server", address, stdin=b"Hi")
    assert found.returncode == 2 and b"A chat needs the tokenizer of" in found.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["-m", "/elsewhere/other"], "holds {model}, not /elsewhere/other"),
        (["--dtype", "float16"], "was started with --dtype auto"),
        (["--quantize", "int8"], "was started with no --quantize"),
        (["-e", "rome"], "leave --edit out"),
        (["--chat-template", "tool_use"], "another chat template"),
        (["--context", "601"], "has a context of 600 tokens, not 601"),
        (["--lookup"], "--lookup loads the model in this process"),
    ],
)
def test_flags_that_the_server_cannot_follow_are_errors(
    flags: list[str], words: str, server: TestServer, model: Path, address: str
) -> None:
    found = llm("generate", "Hi", "-n", "1", "--server", address, *flags)
    assert found.returncode == 2
    assert words.format(model=model.name) in " ".join(found.stderr.decode().split())


def test_a_key_is_needed(server: TestServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("", "wrong"):
        monkeypatch.setenv("LLMCLI_API_KEY", key)
        with pytest.raises(UsageError, match="needs a key: set LLMCLI_API_KEY"):
            server_at(server.url)


@pytest.mark.parametrize(
    "address", ["on", "http://", "https://127.0.0.1:1", "http://127.0.0.1:x", "ftp://a", "http://a/other"]
)
def test_other_forms_of_addresses_are_errors(address: str) -> None:
    found = llm("generate", "Hi", "--server", address)
    assert found.returncode == 2 and b"--server" in found.stderr


def test_where_nothing_answers_no_model_is_loaded() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        for named in (address, "unix:/nowhere/a.sock"):
            found = llm("generate", "Hi", "--server", named)
            assert found.returncode == 1
            assert found.stderr.startswith(f"llm: The server at {named} does not answer: ".encode())


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (200, b"{}", "is not a server of llm serve"),
        (200, b"[]", "is not a server of llm serve"),
        (200, b"hello", "is not a server of llm serve"),
        (404, b'{"error": {"message": "File Not Found"}}', "is not a server of llm serve"),
        (500, b"oops", "answered with the status 500"),
        (200, b'{"identity": {"version": "0.0.0", "files": []}}', r"is version 0\.0\.0 of this program"),
    ],
)
def test_another_program_or_version_is_an_error(status: int, answer: bytes, words: str) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        thread = threading.Thread(target=other.handle_request)
        thread.start()
        with pytest.raises(LlmcliError, match=words):
            server_at(f"http://127.0.0.1:{other.server_port}")
        thread.join(10)


def test_over_tcp_no_path_of_this_machine_is_shown(server: TestServer) -> None:
    answer = server.ask("GET", "/internal/server", headers={"X-Api-Key": KEY})
    assert answer.status == 200 and "/" not in json.dumps(answer.json["identity"])
    for method, path in (("GET", "/internal/status"), ("POST", "/internal/stop")):
        assert server.ask(method, path, {}, headers={"X-Api-Key": KEY}).status == 404
