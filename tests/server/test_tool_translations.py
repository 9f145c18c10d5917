"""Tool calls in `/v1/responses` and `/v1/messages`: those of chat completions in other shapes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

import llmcli
from tests.support.server import TestServer, serving
from tests.support.text.tool_templates import tool_checkpoint

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
CHAT = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Let me look.", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "Sun"},
]
CHAT_TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestServer]:
    with serving(llmcli.load(tool_checkpoint(tmp_path_factory.mktemp("m"), "hermes"))) as running:
        yield running


@pytest.fixture(scope="module")
def prompt_tokens(server: TestServer) -> int:
    """The tokens of the conversation with a call and its result, as chat completions write it."""
    return int(server.post("/tokenize", messages=CHAT, tools=CHAT_TOOLS).json["count"])


def test_a_response_has_the_call(server: TestServer) -> None:
    tools: Any = [{"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}]
    asked: Any = {"model": "any", "input": "Hi", "tools": tools, "max_output_tokens": 200}
    asked |= {"parallel_tool_calls": False, "extra_body": {"seed": 1}}
    choices: list[Any] = ["required", {"type": "function", "name": "weather"}]
    with OpenAI(base_url=server.url, api_key="unused", max_retries=0) as client:
        for choice in choices:
            [call] = client.responses.create(**asked, tool_choice=choice).output
            assert call.type == "function_call" and call.call_id and call.status == "completed"
            assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Rome"})
        events = list(client.responses.create(**asked, tool_choice="required", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last: Any = events[-1]
    assert last.type == "response.completed"
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    [item] = last.response.output
    assert "".join(pieces) == item.arguments
    [added] = [event.item for event in events if event.type == "response.output_item.added"]
    [done] = [event.item for event in events if event.type == "response.output_item.done"]
    assert (added.id, added.name, done) == (item.id, "weather", item)


def test_a_response_reads_calls_and_outputs(server: TestServer, prompt_tokens: int) -> None:
    given: Any = [
        {"role": "user", "content": "Hi"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me look."}]},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Rome"}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "Sun"},
    ]
    tools: Any = [{"type": "function", "name": "weather", "parameters": SCHEMA}]
    with OpenAI(base_url=server.url, api_key="unused", max_retries=0) as client:
        reply = client.responses.create(model="any", input=given, tools=tools, max_output_tokens=1)
    assert reply.usage is not None and reply.usage.input_tokens == prompt_tokens


def test_a_message_has_the_call(server: TestServer) -> None:
    asked: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 200,
        "tools": [{"name": "weather", "description": "x", "input_schema": SCHEMA}],
    }
    once = {"type": "any", "disable_parallel_tool_use": True}
    for choice in (once, {"type": "tool", "name": "weather"}):
        reply = server.post("/v1/messages", **asked, tool_choice=choice).json
        assert reply["stop_reason"] == "tool_use"
        block = reply["content"][0]
        assert block["id"]
        assert {**block, "id": ""} == {"type": "tool_use", "id": "", "name": "weather", "input": {"city": "Rome"}}
    lines = server.post("/v1/messages", **asked, tool_choice=once, stream=True).body.decode().split("\n\n")
    events = [json.loads(line.partition("data: ")[2]) for line in lines if line]
    [started] = [event for event in events if event["type"] == "content_block_start"]
    assert started["content_block"]["input"] == {} and started["content_block"]["name"] == "weather"
    pieces = [event["delta"]["partial_json"] for event in events if event["type"] == "content_block_delta"]
    assert json.loads("".join(pieces)) == {"city": "Rome"}
    assert [event["delta"]["stop_reason"] for event in events if event["type"] == "message_delta"] == ["tool_use"]


def test_a_message_reads_calls_and_results(server: TestServer, prompt_tokens: int) -> None:
    use = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Rome"}}
    messages: list[Any] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [{"type": "text", "text": "Let me look."}, use]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "Sun"}]},
    ]
    tools = [{"name": "weather", "input_schema": SCHEMA}]
    counted = server.post("/v1/messages/count_tokens", messages=messages, tools=tools)
    assert counted.json == {"input_tokens": prompt_tokens}
    messages[-1]["content"].append({"type": "text", "text": "And?"})
    more = server.post("/tokenize", messages=[*CHAT, {"role": "user", "content": "And?"}], tools=CHAT_TOOLS).json
    counted = server.post("/v1/messages/count_tokens", messages=messages, tools=tools)
    assert counted.json == {"input_tokens": more["count"]}
