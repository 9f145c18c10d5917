"""Messages in OpenAI's format."""

from __future__ import annotations

import pytest

from llmcli.errors import UsageError
from llmcli.text.chat.messages import Message, ToolCall, parse_messages

USER = {"role": "user", "content": "Hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Hi", "Hi"),
        ([{"type": "text", "text": "Hi"}], "Hi"),
        ([{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}, "c"], "a\nb\nc"),
        ([], ""),
    ],
)
def test_content_is_a_text_or_parts_of_text(content: object, text: str) -> None:
    assert parse_messages([{"role": "user", "content": content}]) == (Message("user", text),)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_has_three_names(field: str) -> None:
    assert parse_messages([{"role": "assistant", "content": "4", field: "2 + 2"}])[0].thinking == "2 + 2"


def test_tool_calls_and_their_results() -> None:
    tool = {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "sunny"}]}
    called, result = parse_messages([{"role": "assistant", "content": None, "tool_calls": [CALL]}, tool])
    assert called.tool_calls == (ToolCall("weather", {"city": "Rome"}, "c1"),)
    # The name of the result's tool comes from the call.
    assert (called.content, result) == ("", Message("tool", "sunny", name="weather", tool_call_id="c1"))


def test_arguments_are_values_whether_as_json_or_not() -> None:
    def arguments(given: object) -> object:
        call = {"type": "function", "function": {"name": "f", "arguments": given}}
        return parse_messages([{"role": "assistant", "tool_calls": [call]}])[0].tool_calls[0].arguments

    assert arguments({"a": 1}) == {"a": 1} == arguments('{"a": 1}')
    assert (arguments(""), arguments(None), arguments("not json")) == ({}, {}, "not json")


def test_fields_that_servers_add_to_a_reply_are_ignored() -> None:
    reply: dict[str, object] = {"role": "assistant", "content": "Hi", "refusal": None, "annotations": []}
    reply |= {"tool_calls": None, "name": None}
    assert parse_messages([reply]) == (Message("assistant", "Hi"),)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([], '"messages" must be a list'),
        ("Hi", '"messages" must be a list'),
        (["Hi"], "Message 1: it must be an object"),
        ([USER, {"content": "Hi"}], "Message 2: it must be an object with a"),
        ([{"role": "user"}], 'no "content"'),
        ([{"role": "user", "content": 3}], '"content" must be a text'),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            "type 'image_url', which is not supp",
        ),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "type 'input_audio', which is not supported"),
        ([{"role": "user", "content": [{"type": "text"}]}], 'no "text"'),
        ([{"role": "user", "content": [3]}], "a part of"),
        ([{"role": "user", "content": "Hi", "mood": "good"}], "there is no field 'mood'"),
        ([{"role": "user", "content": "Hi", "name": 3}], '"name" must be a text'),
        ([{"role": "user", "content": "Hi", "tool_calls": [CALL]}], "only an assistant's message"),
        ([{"role": "user", "content": "Hi", "thinking": "hm"}], "only an assistant's message"),
        ([{"role": "assistant", "tool_calls": [{"type": "custom"}]}], '"tool_calls" must be a list'),
        ([{"role": "assistant", "tool_calls": {}}], '"tool_calls" must be a list'),
        ([{"role": "assistant", "content": "", "function_call": {"name": "f"}}], "write the call as"),
        ([{"role": "assistant", "content": "", "audio": {"id": "x"}}], '"audio" is not supported'),
    ],
)
def test_unsupported_fields_are_named(value: object, why: str) -> None:
    with pytest.raises(UsageError, match=why.replace("[", r"\[")):
        parse_messages(value)
