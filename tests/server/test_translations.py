"""`/v1/responses` with OpenAI's own library, and `/v1/messages`: the replies of chat completions in other shapes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

import llmcli
from tests.support.models.puppet import write_thinker
from tests.support.server import TestServer, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestServer]:
    """A model that thinks "ab" and answers "cd"."""
    folder = write_thinker(tmp_path_factory.mktemp("translations") / "thinker", b"ab", b"cd")
    with serving(llmcli.load(folder)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: TestServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.url, api_key="unused", max_retries=0) as made:
        yield made


def test_a_response_has_the_thought_and_the_answer(client: OpenAI) -> None:
    asked: Any = {"model": "any", "input": "Hi", "temperature": 0}
    reply = client.responses.create(**asked, instructions="Be brief.")
    assert (reply.output_text, reply.status, reply.model) == ("cd", "completed", "any")
    assert [item.type for item in reply.output] == ["reasoning", "message"]
    assert reply.output[0].model_dump()["content"][0]["text"] == "ab"
    assert reply.usage is not None and reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens
    cut = client.responses.create(**asked, max_output_tokens=2)
    assert cut.status == "incomplete" and cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"


def test_a_streamed_response_adds_up(client: OpenAI) -> None:
    messages: Any = [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]
    events = list(client.responses.create(model="any", input=messages, temperature=0, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.completed"
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == 2
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "cd"
    assert "".join(event.delta for event in events if event.type == "response.reasoning_text.delta") == "ab"
    last: Any = events[-1]
    assert last.response.output_text == "cd"


def test_a_response_has_the_requested_form(client: OpenAI) -> None:
    pytest.importorskip("llguidance")
    form: Any = {"format": {"type": "json_schema", "name": "x", "schema": {"enum": ["cd"]}}}
    reply = client.responses.create(model="any", input="Hi", temperature=0, text=form)
    assert json.loads(reply.output_text) == "cd"


def test_a_message_has_the_thought_and_the_answer(server: TestServer) -> None:
    asked = {"model": "any", "max_tokens": 20, "messages": [{"role": "user", "content": "Hi"}], "temperature": 0}
    reply = server.post("/v1/messages", **asked, system=[{"type": "text", "text": "Be brief."}]).json
    assert reply["content"] == [
        {"type": "thinking", "thinking": "ab", "signature": ""},
        {"type": "text", "text": "cd"},
    ]
    assert (reply["type"], reply["role"], reply["stop_reason"]) == ("message", "assistant", "end_turn")
    again = {**asked, "messages": [*asked["messages"], {"role": "assistant", "content": reply["content"]}]}  # type: ignore[misc]
    again["messages"].append({"role": "user", "content": "And?"})  # type: ignore[attr-defined]
    assert server.post("/v1/messages", **again).json["content"][-1]["text"] == "cd"
    assert server.post("/v1/messages", **{**asked, "max_tokens": 2}).json["stop_reason"] == "max_tokens"
    stopped = server.post("/v1/messages", **asked, stop_sequences=["d"]).json
    assert (stopped["content"][-1]["text"], stopped["stop_reason"], stopped["stop_sequence"]) == (
        "c",
        "stop_sequence",
        "d",
    )
    count = server.post("/v1/messages/count_tokens", **asked).json["input_tokens"]
    assert count == stopped["usage"]["input_tokens"] + stopped["usage"]["cache_read_input_tokens"]


def test_a_streamed_message_adds_up(server: TestServer) -> None:
    asked = {"max_tokens": 20, "messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "stream": True}
    lines = server.post("/v1/messages", **asked).body.decode().split("\n\n")
    events = [json.loads(line.partition("data: ")[2]) for line in lines if line]
    assert [line.split("\n")[0] for line in lines if line] == [f"event: {event['type']}" for event in events]
    kinds = [event["type"] for event in events]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 2
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(delta.get("thinking", "") for delta in deltas) == "ab"
    assert "".join(delta.get("text", "") for delta in deltas) == "cd"
    assert events[-2]["delta"]["stop_reason"] == "end_turn" and events[-2]["usage"]["output_tokens"] > 3


@pytest.mark.parametrize(
    ("path", "change", "words"),
    [
        ("/v1/responses", {"input": []}, "input"),
        ("/v1/responses", {"input": [{"type": "web_search_call"}]}, "calls of functions"),
        ("/v1/responses", {"previous_response_id": "x"}, "previous_response_id"),
        ("/v1/responses", {"tools": [{"type": "web_search"}]}, "tools"),
        ("/v1/responses", {"background": True}, "background"),
        ("/v1/responses", {"unknown": 1}, "unknown"),
        ("/v1/messages", {"messages": []}, "messages"),
        ("/v1/messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "image"),
        ("/v1/messages", {"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools"),
        ("/v1/messages", {"unknown": 1}, "unknown"),
        ("/v1/messages/count_tokens", {"messages": None}, "messages"),
    ],
)
def test_what_is_not_done_is_an_error(server: TestServer, path: str, change: dict[str, Any], words: str) -> None:
    own = {"input": "Hi"} if path == "/v1/responses" else {"messages": [{"role": "user", "content": "Hi"}]}
    answer = server.post(path, **{**own, **change})
    assert answer.status == 400
    assert words in answer.json["error"]["message"]
    assert path == "/v1/responses" or answer.json["type"] == "error"
