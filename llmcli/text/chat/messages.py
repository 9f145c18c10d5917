"""Messages of a conversation, and parsing of OpenAI's chat message format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmcli.errors import UsageError

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
"""The accepted roles. Templates build control tokens from roles, so no others are allowed."""
TOOL_ROLES = ("tool", "function", "ipython")
"""The roles of a message with the result of a tool call."""
THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""The fields with the reasoning of a reply: three names for the same thing."""

_TEXT_PARTS = ("text", "input_text", "output_text")
_FIELDS = ("role", "content", "name", *THOUGHT_FIELDS, "tool_calls", "tool_call_id")
# Fields that servers write into their replies and clients send back; none of them has content.
_SILENT_FIELDS = ("refusal", "annotations", "audio", "function_call", "id", "index", "prefix")


@dataclass(frozen=True)
class ToolCall:
    """A tool call in an assistant's message."""

    name: str
    arguments: object
    """The arguments as a JSON value, or as a string if they are not valid JSON."""
    id: str | None = None


@dataclass(frozen=True)
class Message:
    """One message of a conversation."""

    role: str
    content: str
    ids: tuple[int, ...] | None = None
    """For a reply, the ids that the model generated: used instead of encoding its text, so the KV cache stays valid."""
    is_reply: bool = False
    """Whether a model generated the text, so that reasoning marks in it are marks. In other texts they are text."""
    thinking: str | None = None
    """The reasoning of a reply, if it is separate from the content."""
    name: str | None = None
    """The name of the participant, or of the tool in a tool's message."""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    """In a tool's message, the id of the call it answers."""

    @property
    def has_marks(self) -> bool:
        """Whether reasoning marks in its text count as marks."""
        return self.role == "assistant" and (self.is_reply or self.ids is not None)


def parse_messages(value: object) -> tuple[Message, ...]:
    """Parse a list of JSON objects in OpenAI's chat message format.

    `content` is a string, a list of typed text parts, or null in a message with tool calls. Reasoning is read from
    `reasoning_content`, `reasoning` or `thinking`.

    Raises:
        UsageError: the format is wrong or not supported; the message says where.
    """
    if not isinstance(value, list) or not value:
        raise UsageError('"messages" must be a list of objects such as {"role": "user", "content": "Hello"}.')
    messages: list[Message] = []
    tools: dict[str, str] = {}
    for number, entry in enumerate(value, 1):
        try:
            message = _message(entry, tools)
        except UsageError as error:
            raise UsageError(f"Message {number}: {error}") from None
        tools |= {call.id: call.name for call in message.tool_calls if call.id is not None}
        messages.append(message)
    return tuple(messages)


def as_messages(messages: Sequence[Message | Mapping[str, object]]) -> tuple[Message, ...]:
    """`messages`, with JSON objects among them parsed by `parse_messages`.

    Raises:
        UsageError: the format of an object is wrong or not supported; the message says where.
    """
    if all(isinstance(message, Message) for message in messages):
        return tuple(message for message in messages if isinstance(message, Message))
    read = iter(parse_messages([dict(message) for message in messages if not isinstance(message, Message)]))
    return tuple(message if isinstance(message, Message) else next(read) for message in messages)


def _message(entry: object, tools: Mapping[str, str]) -> Message:
    """Parse one message; `tools` maps the ids of earlier tool calls to the tools' names."""
    if not isinstance(entry, dict) or not isinstance(entry.get("role"), str):
        raise UsageError('it must be an object with a "role", such as {"role": "user", "content": "Hello"}.')
    given = {name: item for name, item in entry.items() if item is not None}
    role = given["role"]
    for name, item in given.items():
        if name in _SILENT_FIELDS and not item:
            continue
        if name == "function_call":
            raise UsageError('"function_call" is not supported; write the call as "tool_calls".')
        if name == "audio":
            raise UsageError('"audio" is not supported yet: only text is read.')
        if name not in _FIELDS and name not in _SILENT_FIELDS:
            raise UsageError(f"there is no field {name!r} of a message; known are {', '.join(_FIELDS)}.")
    calls = _tool_calls(given.get("tool_calls", []))
    if calls and role != "assistant":
        raise UsageError(f'only an assistant\'s message has "tool_calls", not one of the role {role!r}.')
    if "content" not in given and not calls and not any(given.get(name) for name in THOUGHT_FIELDS):
        raise UsageError('it has no "content".')
    thoughts = [_text_of(given[name], name) for name in THOUGHT_FIELDS if name in given]
    if thoughts and role != "assistant":
        raise UsageError(f"only an assistant's message has reasoning, not one of the role {role!r}.")
    call_id = _optional_text(given, "tool_call_id")
    name = _optional_text(given, "name")
    if name is None and role in TOOL_ROLES and call_id is not None:
        name = tools.get(call_id)
    return Message(
        role,
        _text_of(given.get("content", ""), "content"),
        thinking=next((thought for thought in thoughts if thought), None),
        name=name,
        tool_calls=calls,
        tool_call_id=call_id,
    )


def _text_of(content: object, field: str) -> str:
    """The text of a message's content: the string itself, or its parts joined by newlines."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise UsageError(
            f'its "{field}" must be a text, or a list of parts such as {{"type": "text", "text": "Hello"}}.'
        )
    texts = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(part, dict) or not isinstance(kind, str):
            raise UsageError(f'a part of its "{field}" must be an object such as {{"type": "text", "text": "Hello"}}.')
        if kind not in _TEXT_PARTS:
            raise UsageError(
                f'a part of its "{field}" is of the type {kind!r}, which is not supported: only text is read.'
            )
        if not isinstance(part.get("text"), str):
            raise UsageError(f'a part of its "{field}" has no "text".')
        texts.append(part["text"])
    return "\n".join(texts)


def _tool_calls(value: object) -> tuple[ToolCall, ...]:
    form = 'its "tool_calls" must be a list of {"type": "function", "function": {"name": ..., "arguments": ...}}.'
    if not isinstance(value, list):
        raise UsageError(form)
    calls = []
    for entry in value:
        if not isinstance(entry, dict) or entry.get("type", "function") != "function":
            raise UsageError(form)
        function: Any = entry.get("function", entry)
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise UsageError(form)
        calls.append(ToolCall(function["name"], _arguments(function.get("arguments")), _optional_text(entry, "id")))
    return tuple(calls)


def _arguments(value: object) -> object:
    """The arguments of a call as a JSON value, or as a string if they are not valid JSON."""
    if value is None:
        return {}
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else {}
    except (ValueError, RecursionError):
        return value


def _optional_text(entry: Mapping[str, object], field: str) -> str | None:
    value = entry.get(field)
    if value is not None and not isinstance(value, str):
        raise UsageError(f'its "{field}" must be a text.')
    return value or None


def with_system_in_user(messages: Sequence[Message], which: Sequence[int]) -> list[Message] | None:
    """Move the system messages at the indices `which` into the next user message.

    Returns None if one of them has no user message after it.
    """
    result: list[Message] = []
    waiting: list[str] = []
    for index, message in enumerate(messages):
        if index in which:
            waiting.append(message.content)
        elif waiting and message.role == "user":
            content = "\n\n".join([*waiting, message.content])
            result.append(Message("user", content, name=message.name))
            waiting = []
        else:
            result.append(message)
    return None if waiting else result


def with_tools_as_text(messages: Sequence[Message], *, results: bool) -> list[Message]:
    """Write tool calls as JSON into the assistant's text, for templates without tool calls, as llama.cpp does.

    With `results`, tool results become JSON in a user message as well.
    """
    written: list[Message] = []
    for message in messages:
        if message.tool_calls:
            calls = [
                {"name": call.name, "arguments": call.arguments, **({"id": call.id} if call.id else {})}
                for call in message.tool_calls
            ]
            text = json.dumps({"tool_calls": calls}, ensure_ascii=False)
            content = f"{message.content}\n{text}" if message.content else text
            written.append(Message(message.role, content, thinking=message.thinking, name=message.name))
        elif results and message.role in TOOL_ROLES:
            names = {"name": message.name, "tool_call_id": message.tool_call_id}
            response = {**{key: value for key, value in names.items() if value}, "content": message.content}
            text = json.dumps({"tool_response": response}, ensure_ascii=False)
            if written and written[-1].role == "user" and written[-1].tool_call_id == "":
                text = f"{written.pop().content}\n{text}"
            # An empty id marks the message, so that results of several calls are joined into it.
            written.append(Message("user", text, tool_call_id=""))
        else:
            written.append(message)
    return [Message(**{**vars(each), "tool_call_id": each.tool_call_id or None}) for each in written]
