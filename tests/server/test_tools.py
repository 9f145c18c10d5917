"""Tool calls in `/v1/chat/completions`, with OpenAI's own library as the client."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

import llmcli
from llmcli.engine import Step
from llmcli.server.openai.chat_events import ChatEvents
from llmcli.server.openai.chat_request import read_chat
from tests.support.server import TestServer, serving
from tests.support.text.tool_templates import tool_checkpoint

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather <|end|> of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/City"}},
            "required": ["city"],
            "additionalProperties": False,
            "$defs": {"City": {"enum": ["Bern", "Rome"]}},
        },
    },
}
STOP: Any = {"type": "function", "function": {"name": "stop", "parameters": {"type": "object", "maxProperties": 0}}}
MESSAGES: Any = [{"role": "user", "content": "Hi"}]
CALLS = {
    "hermes": '\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>',
    "llama": '{"name": "get_weather", "parameters": {"city": "Rome"}}',
    "mistral": '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Rome"}}]',
}


@pytest.fixture(scope="module", params=list(CALLS))
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(form: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestServer]:
    with serving(llmcli.load(tool_checkpoint(tmp_path_factory.mktemp("m"), form))) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: TestServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.url, api_key="unused", max_retries=0) as made:
        yield made


def saying(text: str) -> dict[str, Any]:
    """Settings with which any model answers `text`."""
    return {"extra_body": {"structured_outputs": {"regex": re.escape(text)}}, "model": "any", "max_tokens": 300}


def test_a_call_is_read_whole_and_as_a_stream(client: OpenAI, form: str) -> None:
    said = "" if form == "llama" else "Let me look."
    asked = saying(said + CALLS[form]) | {"messages": MESSAGES, "tools": [WEATHER, STOP]}
    [choice] = client.chat.completions.create(**asked).choices
    assert choice.finish_reason == "tool_calls" and choice.message.content == (said or None)
    [call] = choice.message.tool_calls or []
    assert call.type == "function" and call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Rome"}
    if form == "mistral":
        assert re.fullmatch("[A-Za-z0-9]{9}", call.id)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    [streamed] = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert text == said and chunks[-1].choices[0].finish_reason == "tool_calls"
    assert streamed.function is not None and (streamed.index, streamed.type) == (0, "function")
    assert (streamed.function.name, streamed.function.arguments) == ("get_weather", call.function.arguments)


def test_a_reply_without_a_call_is_text(client: OpenAI) -> None:
    [choice] = client.chat.completions.create(**saying("Just text. "), messages=MESSAGES, tools=[WEATHER]).choices
    assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == ("Just text. ", [], "stop")


def test_with_none_the_text_of_a_call_stays(client: OpenAI, server: TestServer, form: str) -> None:
    asked = saying(CALLS[form]) | {"messages": MESSAGES, "tools": [WEATHER], "tool_choice": "none"}
    reply = client.chat.completions.create(**asked)
    assert (reply.choices[0].message.content, reply.choices[0].message.tool_calls) == (CALLS[form], [])
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == server.post("/tokenize", messages=MESSAGES).json["count"]


def test_a_required_call_keeps_to_the_parameters(client: OpenAI) -> None:
    found = set()
    for seed in range(4):
        reply = client.chat.completions.create(
            model="any", messages=MESSAGES, tools=[WEATHER, STOP], tool_choice="required", seed=seed,
            max_tokens=400, parallel_tool_calls=False,
        )  # fmt: skip
        [choice] = reply.choices
        [call] = choice.message.tool_calls or []
        assert call.type == "function" and choice.finish_reason == "tool_calls" and choice.message.content is None
        found.add((call.function.name, call.function.arguments))
    assert found <= {("get_weather", '{"city": "Bern"}'), ("get_weather", '{"city": "Rome"}'), ("stop", "{}")}


def test_a_named_call_is_of_that_tool(client: OpenAI) -> None:
    choice: Any = {"type": "function", "function": {"name": "stop"}}
    reply = client.chat.completions.create(
        model="any", messages=MESSAGES, tools=[WEATHER, STOP], tool_choice=choice, seed=1, max_tokens=200
    )
    [call] = reply.choices[0].message.tool_calls or []
    assert call.type == "function" and (call.function.name, call.function.arguments) == ("stop", "{}")


def test_calls_and_results_are_in_the_next_prompt(client: OpenAI, server: TestServer, form: str) -> None:
    asked = saying(CALLS[form]) | {"messages": MESSAGES, "tools": [WEATHER]}
    message = client.chat.completions.create(**asked).choices[0].message
    [call] = message.tool_calls or []
    more = [message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "Sun <|end|>"}]
    found = server.post("/tokenize", messages=[*MESSAGES, *more], tools=[WEATHER], return_token_strs=True)
    assert found.status == 200, found.body
    text = server.post("/detokenize", tokens=found.json["tokens"]).json["prompt"]
    assert CALLS[form].strip().partition('"id"')[0].rstrip("]}") in text and "Sun <|end|>" in text
    assert '"description": "The weather <|end|> of a city."' in text
    # What a tool or its description spells is text.
    assert found.json["token_strs"].count("<|end|>") == 3


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]}, "tools"),
        ({"tools": [STOP], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [STOP], "tool_choice": {"type": "function", "function": {"name": "go"}}}, "tool_choice"),
        ({"tools": [STOP], "tool_choice": "required", "response_format": {"type": "json_object"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "a", "parameters": {"not": {}}}}],
                "tool_choice": "required",
            },
            "tools",
        ),
    ],
)
def test_wrong_tools_are_errors_that_name_the_field(server: TestServer, field: Any, param: str) -> None:
    answer = server.post("/v1/chat/completions", **{"messages": MESSAGES, "max_tokens": 2, **field})
    assert (answer.status, answer.json["error"]["param"]) == (400, param)


@pytest.mark.parametrize("form", ["unknown", "split marks"])
def test_a_template_with_an_unknown_form_is_an_error(form: str, tmp_path: Path) -> None:
    with serving(llmcli.load(tool_checkpoint(tmp_path, form))) as server:
        answer = server.post("/v1/chat/completions", messages=MESSAGES, tools=[STOP])
    assert (answer.status, answer.json["error"]["param"]) == (400, "tools")


def test_a_mark_that_is_a_control_token_is_seen(tmp_path: Path) -> None:
    folder = tool_checkpoint(tmp_path, "hermes")
    # The names of roles become the marks: control tokens, which are no part of decoded text.
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace("<|system|>", "<tool_call>").replace("<|user|>", "</tool_call>"))
    loaded = llmcli.load(folder)
    opener, closer = (loaded.tokenizer.token_to_id(mark) for mark in ("<tool_call>", "</tool_call>"))
    assert opener is not None and closer is not None and loaded.tokenizer.is_silent(opener)
    with serving(loaded) as server:
        ready = server.server.service.needed()
        asked = read_chat({"messages": MESSAGES, "tools": [STOP]}, ready)
    events = ChatEvents(asked, loaded.tokenizer)
    body = loaded.tokenizer.encode('{"name": "stop", "arguments": {}}', add_special_tokens=False)
    steps = [Step(0, opener, ""), *(Step(1, token, chr(loaded.tokenizer.token_bytes(token)[0])) for token in body)]
    said = [events.taken(step).text for step in [*steps, Step(2, closer, "")]]
    assert "".join(said) == "" and [(call.name, call.arguments) for call in events.calls] == [("stop", "{}")]
