"""What a client makes of a server's lines: events, notes, errors, and a server that ends in the middle."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from unittest import mock

import pytest

from llmcli.client.connection import NoServerError, request_json
from llmcli.client.reply import ServedReply
from llmcli.engine.events import AttentionRow, Event, Finish, Prefill, Read, Stats, Step
from llmcli.engine.interrupt import Interruption
from llmcli.errors import LlmcliError, OutOfMemoryError, PromptTooLongError, UsageError
from llmcli.server.registry import Identity
from llmcli.server.wire import GenerateRequest, ReplyBegin, attention_value, begin_value, event_value, line
from llmcli.text.chat.prompt_request import PromptRequest
from tests.support.canned_server import OK, CannedServer, canned_server

REQUEST = GenerateRequest(PromptRequest("Hi"), {"temperature": 0})
BEGIN = ReplyBegin("m", "cpu", {"seed": 1}, (1, 2), (), "", "", "", "begin", True, 100)
STATS = Stats(2, 0, 2, 0.1, None, None, 10, "cpu")
EVENTS: list[Event] = [Prefill(2, 0, 0.1), Step(0, 5, "a"), Step(1, 6, "b"), Finish("stop", STATS)]
ROW = AttentionRow(1, 0.5, 0.1, (Read(0, "x", 0.4),))


def lines(events: list[Event]) -> bytes:
    return b"".join(line(event_value(event, lambda token: bytes([token]))) for event in events)


@pytest.fixture
def server() -> Iterator[CannedServer]:
    with canned_server(Identity("1", ())) as server:
        yield server


def read(reply: ServedReply, interruption: Interruption | None = None) -> list[Event]:
    return list(reply.events(interruption or Interruption(), lambda done, total: None))


def test_events_and_what_follows_them_arrive_as_they_were_sent(server: CannedServer) -> None:
    after = line(attention_value(0, ROW, -0.5)) + line({"event": "record", "value": {"a": 1}}) + b'{"event": "end"}\n'
    progress = b'{"event": "progress", "done": 1, "total": 2}\n'
    server.answers = [
        OK + b'{"event": "note", "text": "n"}\n' + line(begin_value(BEGIN)) + progress + lines(EVENTS) + after
    ]
    told: list[str] = []
    reply = ServedReply(server.state, replace(REQUEST, attention_by="token", record=True), told.append)
    assert (reply.begin, told) == (BEGIN, ["n"])
    done: list[tuple[int, int]] = []
    assert list(reply.events(Interruption(), lambda *part: done.append(part))) == EVENTS
    assert done == [(1, 2)]
    assert reply.token_bytes(6) == b"\x06"
    reading = reply.attention([])
    reading.read(lambda *part: None)
    assert (reading.rows, reading.logprobs) == ([ROW], [-0.5])
    assert reply.record([], EVENTS[-1]) == {"a": 1}  # type: ignore[arg-type]
    sent = json.loads(server.requests[0].split(b"\n", 1)[1])
    assert server.requests[0].startswith(b"POST /internal/generate HTTP/1.0\n")
    assert sent["prompt"]["text"] == "Hi" and sent["id"]


@pytest.mark.parametrize("cut", [1, 20, 400])
def test_a_server_that_ends_in_the_middle_is_an_error(server: CannedServer, cut: int) -> None:
    whole = OK + line(begin_value(BEGIN)) + lines(EVENTS)
    server.answers = [whole[: len(whole) - 1 - cut]]
    with pytest.raises(LlmcliError, match=r"The server canned \(pid \d+\) ended during the reply"):
        read(ServedReply(server.state, REQUEST, lambda note: None))


def test_a_server_that_ends_before_the_attention_is_an_error(server: CannedServer) -> None:
    server.answers = [OK + line(begin_value(BEGIN)) + lines(EVENTS) + line(attention_value(0, ROW))]
    reply = ServedReply(server.state, replace(REQUEST, attention_by="token"), lambda note: None)
    assert read(reply) == EVENTS
    reading = reply.attention([])
    with pytest.raises(LlmcliError, match="ended during the reply"):
        reading.read(lambda *part: None)
    assert (reading.rows, reading.logprobs) == ([ROW], [])


@pytest.mark.parametrize(
    ("code", "kind"), [(1, LlmcliError), (2, UsageError), (5, OutOfMemoryError), (6, PromptTooLongError)]
)
def test_an_error_of_the_server_has_its_exit_code_here(
    server: CannedServer, code: int, kind: type[LlmcliError]
) -> None:
    failure = line({"event": "error", "message": "No.", "exit_code": code})
    for answer in (OK + failure, OK + line(begin_value(BEGIN)) + lines(EVENTS[:2]) + failure):
        server.answers = [answer]
        with pytest.raises(kind, match=r"^No\.$") as raised:
            read(ServedReply(server.state, REQUEST, lambda note: None))
        assert type(raised.value) is kind


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, 2, UsageError),
        (400, 6, PromptTooLongError),
        (500, 1, LlmcliError),
        (503, 1, NoServerError),
    ],
)
def test_a_refused_request_is_an_error(server: CannedServer, status: int, code: int, kind: type[LlmcliError]) -> None:
    body = json.dumps({"error": {"message": "No.", "exit_code": code}}).encode()
    server.answers = [b"HTTP/1.1 %d Bad\r\nContent-Type: application/json\r\n\r\n" % status + body]
    with pytest.raises(kind, match=r"^No\.$") as raised:
        ServedReply(server.state, REQUEST, lambda note: None)
    assert type(raised.value) is kind


def test_a_server_that_is_gone_is_no_server(server: CannedServer) -> None:
    gone = canned_server(Identity("1", ()))
    with gone as other:
        state = other.state
    with pytest.raises(NoServerError, match="does not answer"):
        ServedReply(state, REQUEST, lambda note: None)
    server.answers = [b"", b"SSH-2.0\r\n\r\n", OK + b'{"a": 1}']
    with pytest.raises(NoServerError, match="ended before it answered"):
        request_json(server.state, "/x", timeout_s=5)
    with pytest.raises(LlmcliError, match="does not speak HTTP"):
        request_json(server.state, "/x", timeout_s=5)
    assert request_json(server.state, "/x", timeout_s=5) == {"a": 1}
    assert server.requests[-1].startswith(b"GET /x HTTP/1.0")


def test_ctrl_c_asks_the_server_to_end_the_reply_and_reads_its_last_event(server: CannedServer) -> None:
    interruption, finish = Interruption(), Finish("interrupted", STATS, "held back")
    kept: list[socket.socket] = []

    def generate(connection: socket.socket) -> None:
        connection.sendall(OK + line(begin_value(BEGIN)) + lines(EVENTS[:2]))
        kept.append(connection.dup())

    def cancel(connection: socket.socket) -> None:
        connection.sendall(OK + b"{}")
        kept[0].sendall(lines([EVENTS[2], finish]))
        kept[0].close()

    server.answers = [generate, cancel]
    events = ServedReply(server.state, REQUEST, lambda note: None).events(interruption, lambda done, total: None)
    assert [next(events), next(events)] == EVENTS[:2]
    # As the signal handler does between two events.
    interruption.request()
    assert list(events) == [EVENTS[2], finish]
    first, second = (json.loads(request.split(b"\n", 1)[1]) for request in server.requests)
    assert server.requests[1].startswith(b"POST /internal/cancel ") and first["id"] == second["id"]


def test_a_second_ctrl_c_does_not_wait_for_the_server(server: CannedServer) -> None:
    interruption = Interruption()
    server.answers = [OK + line(begin_value(BEGIN)) + lines(EVENTS[:2]), OK + b"{}"]
    events = ServedReply(server.state, REQUEST, lambda note: None).events(interruption, lambda done, total: None)
    assert [next(events), next(events)] == EVENTS[:2]
    interruption.request()
    with mock.patch("llmcli.client.connection.ServerAnswer.line", side_effect=KeyboardInterrupt):
        (finish,) = events
    assert isinstance(finish, Finish)
    assert (finish.reason, finish.stats.prompt_tokens, finish.stats.generated_tokens) == ("interrupted", 2, 1)
