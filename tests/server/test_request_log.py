"""A server's log has a line for each request that computes something, with texts only if they are wanted."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from llmcli.engine.events import Finish, Stats
from llmcli.errors import LlmcliError
from llmcli.server.request_log import Receive, RequestLog, RequestLogMiddleware, Scope, Send, log_reply, log_saved

FINISH = Finish("stop", Stats(5, 2, 3, 0.1, None, 30.0, 10, "cpu"))


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    if scope["path"] == "/fail":
        raise RuntimeError
    await send({"type": "http.response.start", "status": 200})
    for _ in range(scope.get("replies", 1)):
        log_reply(FINISH)
    log_saved()
    await send({"type": "http.response.body", "body": b'{"a": '})
    await send({"type": "http.response.body", "body": b"1}"})


def request(log: RequestLog, path: str = "/v1/x", method: str = "POST", body: bytes = b"hi", **more: Any) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(_message: object) -> None:
        pass

    asyncio.run(
        RequestLogMiddleware(answer, log)({"type": "http", "method": method, "path": path, **more}, receive, send)
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_has_the_sizes_and_times_of_a_request_and_no_text(tmp_path: Path) -> None:
    path, told = tmp_path / "log.jsonl", list[str]()
    path.write_text('{"earlier": 1}\n')
    log = RequestLog(path, "m", tell=told.append)
    request(log)
    request(log, replies=2)
    request(log, method="GET")
    request(log, path="/internal/cancel")
    with pytest.raises(RuntimeError):
        request(log, path="/fail")
    log.close()
    _, one, two, failed = lines(path)
    assert {name: one[name] for name in one if name not in ("time", "seconds")} == {
        "route": "/v1/x", "status": 200, "model": "m", "replies": 1, "prompt_tokens": 5, "cached_tokens": 2,
        "generated_tokens": 3, "ttft_s": 0.1, "tokens_per_s": 30.0, "finish_reason": "stop", "saved": True,
    }  # fmt: skip
    assert one["seconds"] >= 0 and one["time"].endswith("+00:00")
    assert (two["replies"], two["generated_tokens"], two["finish_reason"]) == (2, 6, None)
    assert (failed["route"], failed["status"], failed["replies"], failed["saved"]) == ("/fail", None, 0, False)
    assert told == []
    # Outside of a request there is nothing to log to.
    log_reply(FINISH)


def test_bodies_are_logged_if_they_are_wanted_and_only_for_this_user(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = RequestLog(path, "m", bodies=True, tell=lambda line: None)
    request(log, body=b"a" * (3 << 20))
    log.close()
    (line,) = lines(path)
    assert line["response"] == {"a": 1} and line["request"] == "a" * (1 << 20)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_log_that_cannot_be_written_is_told_and_does_not_stop_the_server(tmp_path: Path) -> None:
    with pytest.raises(LlmcliError, match="cannot be written: Is a directory"):
        RequestLog(tmp_path, "m", tell=lambda line: None)
    told = list[str]()
    log = RequestLog(Path("/dev/full"), "m", tell=told.append)
    request(log)
    request(log)
    assert told == ["The log /dev/full cannot be written any more: No space left on device."]
    os.close(log._file)
