"""Many clients at once: rows joined and left, disconnects, slow readers, a full queue."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import llmcli
from llmcli import LoadedModel
from llmcli.server.run import ServeSettings
from llmcli.server.scheduler.scheduler import Scheduler, WorkLimits
from tests.support.models.tiny_checkpoints import shared_checkpoint
from tests.support.server import TestServer, serving


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return llmcli.load(shared_checkpoint("llama", max_position_embeddings=4096), quantize="int8")


@pytest.fixture(scope="module")
def server(model: LoadedModel) -> Iterator[TestServer]:
    with serving(model) as running:
        yield running


def asked(number: int) -> dict[str, Any]:
    """A request; each has other settings, and some have log-probabilities or conversations that begin alike."""
    settings: dict[str, Any] = {"seed": number, "max_tokens": 10 + number % 7, "ignore_eos": True}
    if number % 3 == 0:
        settings["temperature"] = 0
    if number % 4 == 1:
        settings["logprobs"] = True
    content = "A conversation that begins alike. " * (number % 5) + f"Question {number}?"
    return {"messages": [{"role": "user", "content": content}], **settings}


def scheduler_of(server: TestServer) -> Scheduler:
    assert server.server.scheduler is not None
    return server.server.scheduler


def until(happens: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.005)


def disconnecting(server: TestServer, number: int) -> None:
    """Ask for a long stream, and close the connection after its beginning."""
    body = json.dumps({**asked(number), "stream": True, "max_tokens": 3000}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with server.raw(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body) as connection:
        data = b""
        # The first event comes before the reply begins.
        while data.count(b"data: ") < 3:
            data += connection.recv(1000)


def test_every_client_of_32_has_the_reply_it_would_have_alone(server: TestServer, model: LoadedModel) -> None:
    with serving(model, ServeSettings(limits=WorkLimits(cache_bytes=0))) as cold:
        alone = [cold.post("/v1/chat/completions", **asked(number)).json["choices"][0] for number in range(32)]
    wanted = model.generate(asked(0)["messages"], temperature=0, max_tokens=10)
    assert alone[0]["message"]["content"].startswith(wanted.text)
    with ThreadPoolExecutor(40) as pool:
        gone = [pool.submit(disconnecting, server, 100 + number) for number in range(8)]
        found = list(pool.map(lambda number: server.post("/v1/chat/completions", **asked(number)), range(32)))
        for each in gone:
            each.result()
    assert [answer.status for answer in found] == [200] * 32
    assert [answer.json["choices"][0] for answer in found] == alone
    until(lambda: not any(scheduler_of(server).load().values()))


def test_a_client_that_reads_nothing_holds_nobody_up(server: TestServer) -> None:
    body = json.dumps({**asked(1), "stream": True, "max_tokens": 3000}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", server.state.port or 0))
        slow.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: scheduler_of(server).load()["running"] == 1)
        assert server.post("/v1/chat/completions", **asked(2)).status == 200
        # The reply is complete although nothing of it was read.
        until(lambda: scheduler_of(server).load()["running"] == 0)


def test_a_client_that_leaves_ends_its_reply(server: TestServer) -> None:
    counts = scheduler_of(server).counts
    before = counts.replies, counts.generated_tokens
    disconnecting(server, 7)
    until(lambda: counts.replies == before[0] + 1)
    assert counts.generated_tokens - before[1] < 3000
    # One that waits for a whole reply too.
    body = json.dumps({**asked(3), "max_tokens": 4000}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with server.raw(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body):
        until(lambda: scheduler_of(server).load()["running"] == 1)
    until(lambda: counts.replies == before[0] + 2)
    assert counts.generated_tokens - before[1] < 7000


def test_a_full_queue_refuses_and_says_when_to_come_back(model: LoadedModel) -> None:
    with serving(model, ServeSettings(limits=WorkLimits(rows=1, waiting=1))) as server:
        scheduler = scheduler_of(server)
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(server.post, "/v1/chat/completions", **{**asked(1), "max_tokens": 2000})
            until(lambda: scheduler.load() == {"running": 1, "waiting": 0})
            second = pool.submit(server.post, "/v1/chat/completions", **asked(2))
            until(lambda: scheduler.load()["waiting"] == 1)
            answer = server.post("/v1/chat/completions", **asked(3))
            assert (answer.status, answer.json["error"]["code"]) == (503, "overloaded")
            assert answer.headers["retry-after"] == "1"
            assert server.ask("GET", "/health").status == 200
            assert (first.result().status, second.result().status) == (200, 200)


def test_caches_stay_below_their_limit(model: LoadedModel) -> None:
    with serving(model, ServeSettings(limits=WorkLimits(cache_bytes=1 << 20))) as server:
        for number in range(6):
            text = f"{number} " * 200
            server.post("/v1/completions", prompt=text, max_tokens=2)
            until(lambda: scheduler_of(server).load()["running"] == 0)
            assert 0 < scheduler_of(server).kept.nbytes <= 1 << 20
        # The last text is still there.
        usage = server.post("/v1/completions", prompt=text, max_tokens=2).json["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] > 300


def test_a_server_that_ends_answers_what_it_has_taken(model: LoadedModel) -> None:
    with serving(model) as server, ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.post, "/v1/chat/completions", **{**asked(1), "max_tokens": 1000})
        until(lambda: scheduler_of(server).load()["running"] == 1)
        server.server.stop()
        assert server.post("/v1/chat/completions", **asked(2)).status == 503
        assert running.result().status == 200


def test_a_reply_alone_is_written_several_tokens_at_a_time(server: TestServer) -> None:
    step = scheduler_of(server)._step
    counted = []
    original = step.forward_multi_step

    def counting(*arguments: Any) -> list[int]:
        chosen = original(*arguments)
        counted.append(len(chosen))
        return chosen

    body = {**asked(5), "max_tokens": 60, "logprobs": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "forward_multi_step", counting)
        fast = server.post("/v1/chat/completions", **body).json["choices"]
        assert max(counted) > 1
        counted.clear()
        alone = {**body, "logprobs": True}
        assert server.post("/v1/chat/completions", **alone).json["choices"][0]["message"] == fast[0]["message"]
        assert not counted
    assert threading.active_count() < 50


def test_many_replies_are_written_several_tokens_at_a_time(model: LoadedModel) -> None:
    bodies = [{**asked(5 * number), "max_tokens": 40, "logprobs": False} for number in range(8)]
    with serving(model) as server:
        alone = [server.post("/v1/chat/completions", **body).json["choices"] for body in bodies]
        step, calls = scheduler_of(server)._step, []
        original = step.forward_rows_multi_step

        def counting(*arguments: Any) -> list[Any]:
            chosen = original(*arguments)
            calls.append([len(tokens) for tokens in chosen])
            return chosen

        with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(8) as pool:
            patch.setattr(step, "forward_rows_multi_step", counting)
            found = pool.map(lambda body: server.post("/v1/chat/completions", **body).json["choices"], bodies)
            assert list(found) == alone
    assert max(len(call) for call in calls) > 1 and max(max(call) for call in calls) > 1
