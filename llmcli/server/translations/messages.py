"""`POST /v1/messages`: Anthropic's Messages API. Its last message can be the beginning of the reply."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmcli.engine.events import Finish, FinishReason
from llmcli.server.http.errors import ApiError
from llmcli.server.http.streams import Channel, EventStream, cancelling, json_object, sse
from llmcli.server.openai.chat_events import ChatEvents
from llmcli.server.openai.chat_request import ChatAsked, read_chat
from llmcli.server.openai.fields import Fields
from llmcli.server.openai.replies import new_id
from llmcli.server.openai.tools import WrittenCall
from llmcli.server.service import Service

_REASONS: dict[FinishReason, str] = {
    "stop": "end_turn",
    "stop_string": "stop_sequence",
    "length": "max_tokens",
    "context": "max_tokens",
    "interrupted": "end_turn",
}


class Messages:
    """The endpoints."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, request: Request) -> Response:
        """Answer a request, whole or as a stream."""
        try:
            asked = await self._asked(request)
            service = self._service
            work, channel = service.submit(asked.reply, whole=not asked.stream)
            reply = _MessageReply(
                asked, asked.model or service.needed().loaded.name, ChatEvents(asked, service.tokenizer)
            )
            if asked.stream:
                return EventStream(reply.stream(channel), [work], failed=lambda error: sse(self._error(error), "error"))
            async with cancelling(request.receive, [work]):
                await reply.events.end(channel)
            return JSONResponse(reply.value())
        except Exception as error:
            found = self._service.error(error)
            return JSONResponse(self._error(found), found.status)

    async def count(self, request: Request) -> Response:
        """The tokens of a prompt."""
        try:
            asked = await self._asked(request)
        except Exception as error:
            found = self._service.error(error)
            return JSONResponse(self._error(found), found.status)
        return JSONResponse({"input_tokens": len(asked.reply.ids)})

    async def _asked(self, request: Request) -> ChatAsked:
        service, ready = self._service, self._service.needed()
        body = await json_object(request)
        asked = await service.prepare(lambda: read_chat(_as_chat(body), ready))
        service.check_model(asked.model)
        return asked

    def _error(self, error: Exception) -> dict[str, object]:
        found = error if isinstance(error, ApiError) else self._service.error(error)
        detail: Any = found.value["error"]
        return {"type": "error", "error": {"type": detail["type"], "message": str(found)}}


def _as_chat(body: Mapping[str, Any]) -> dict[str, Any]:
    """The same request as a chat completion."""
    fields = Fields(body)
    messages = fields.value("messages")
    system = fields.value("system")
    if not isinstance(messages, list) or not messages:
        raise ApiError("messages must be a list.", param="messages")
    chat: dict[str, Any] = {"messages": [each for message in messages for each in _messages(message)]}
    if system:
        chat["messages"].insert(0, {"role": "system", "content": system})
    chat["continue_final_message"] = chat["messages"][-1].get("role") == "assistant"
    thinking = fields.inner("thinking")
    if thinking is not None and thinking.text("type") == "disabled":
        chat["reasoning_effort"] = "none"
    for name in ("model", "max_tokens", "temperature", "top_p", "top_k", "stream"):
        if (value := fields.value(name)) is not None:
            chat[name] = value
    if tools := fields.value("tools"):
        chat["tools"] = [_tool(tool) for tool in tools] if isinstance(tools, list) else tools
    if (choice := fields.inner("tool_choice")) is not None:
        chat |= _choice(choice)
    chat["stop"] = fields.value("stop_sequences")
    fields.end(ignored=("metadata", "service_tier", "container", "context_management"))
    return chat


def _tool(tool: object) -> object:
    """A tool as chat completions have it."""
    if not isinstance(tool, dict) or tool.get("type", "custom") != "custom":
        kind = tool.get("type") if isinstance(tool, dict) else tool
        raise ApiError(f"tools can have functions of the client only, not {kind!r}.", param="tools")
    function = {name: tool[name] for name in ("name", "description") if name in tool}
    return {"type": "function", "function": {**function, "parameters": tool.get("input_schema")}}


def _choice(choice: Fields) -> dict[str, Any]:
    """The fields of chat completions for a choice of tools."""
    kind, name = choice.text("type"), choice.text("name")
    names: dict[str | None, object] = {"auto": "auto", "none": "none", "any": "required"}
    names["tool"] = {"type": "function", "function": {"name": name}}
    if kind not in names:
        raise ApiError(f"tool_choice.type must be auto, any, tool or none, not {kind!r}.", param="tool_choice")
    several = not choice.flag("disable_parallel_tool_use")
    choice.end()
    return {"tool_choice": names[kind], "parallel_tool_calls": several}


def _messages(message: object) -> list[Any]:
    """A message as chat completions have it: thoughts and calls in their fields, and results of tools apart."""
    if not isinstance(message, dict) or not isinstance(message.get("content"), list):
        return [message]
    thoughts, parts, calls, results = list[str](), list[object](), list[object](), list[object]()
    for part in message["content"]:
        match part.get("type") if isinstance(part, dict) else None:
            case "thinking":
                thoughts.append(str(part.get("thinking", "")))
            case "tool_use":
                function = {"name": part.get("name"), "arguments": part.get("input")}
                calls.append({"id": part.get("id"), "type": "function", "function": function})
            case "tool_result":
                results.append(
                    {"role": "tool", "tool_call_id": part.get("tool_use_id"), "content": part.get("content") or ""}
                )
            case None:
                parts.append(part)
            case _:
                parts.append({name: value for name, value in part.items() if name != "cache_control"})
    if results and not (parts or calls or thoughts):
        return results
    more: dict[str, object] = {"reasoning_content": "\n".join(thoughts)} if thoughts else {}
    more |= {"tool_calls": calls} if calls else {}
    return [*results, {**message, "content": parts} | more]


class _MessageReply:
    """One reply, and its two forms."""

    def __init__(self, asked: ChatAsked, model: str, events: ChatEvents) -> None:
        self._asked, self._model, self.events = asked, model, events
        self._id = new_id("msg")

    def value(self) -> dict[str, object]:
        """The reply as one object."""
        finish, thinking = self.events.finish, self.events.thinking()
        content: list[dict[str, object]] = []
        if thinking:
            content.append({"type": "thinking", "thinking": thinking, "signature": ""})
        if finish is not None and (self.events.text() or not self.events.calls):
            content.append({"type": "text", "text": self.events.text()})
        if finish is not None:
            content += [_block(call, json.loads(call.arguments)) for call in self.events.calls]
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            **({"stop_reason": None, "stop_sequence": None} if finish is None else self._ending(finish)),
            "usage": self._usage(finish),
        }

    async def stream(self, channel: Channel) -> AsyncIterator[bytes]:
        """The reply as server-sent events."""
        yield _event("message_start", message=self.value())
        index, kind, told = -1, "", 0
        async for event in self.events.read(channel):
            if event is None:
                yield _event("ping")
                continue
            for wanted, piece in (("thinking", event.thinking), ("text", event.text)):
                if not piece:
                    continue
                if kind != wanted:
                    if kind:
                        yield _event("content_block_stop", index=index)
                    index, kind = index + 1, wanted
                    begun = {"type": kind, kind: ""} | ({"signature": ""} if kind == "thinking" else {})
                    yield _event("content_block_start", index=index, content_block=begun)
                yield _event("content_block_delta", index=index, delta={"type": f"{kind}_delta", kind: piece})
            for call in self.events.calls[told:]:
                if kind:
                    yield _event("content_block_stop", index=index)
                index, kind, told = index + 1, "", told + 1
                yield _event("content_block_start", index=index, content_block=_block(call, {}))
                delta = {"type": "input_json_delta", "partial_json": call.arguments}
                yield _event("content_block_delta", index=index, delta=delta)
                yield _event("content_block_stop", index=index)
        if kind:
            yield _event("content_block_stop", index=index)
        finish = self.events.finish
        assert finish is not None
        yield _event("message_delta", delta=self._ending(finish), usage=self._usage(finish))
        yield _event("message_stop")

    def _ending(self, finish: Finish) -> dict[str, object]:
        stops = self._asked.reply.params.stop
        known = stops[0] if finish.reason == "stop_string" and len(stops) == 1 else None
        called = self.events.calls and finish.reason in ("stop", "stop_string")
        return {"stop_reason": "tool_use" if called else _REASONS[finish.reason], "stop_sequence": known}

    def _usage(self, finish: Finish | None) -> dict[str, object]:
        cached = 0 if finish is None else finish.stats.cached_tokens
        return {
            "input_tokens": len(self._asked.reply.ids) - cached,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": 0,
            "output_tokens": 0 if finish is None else finish.stats.generated_tokens,
        }


def _block(call: WrittenCall, given: object) -> dict[str, object]:
    """A call as a block of content."""
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": given}


def _event(kind: str, **fields: object) -> bytes:
    return sse({"type": kind, **fields}, kind)
