"""`POST /v1/responses`: OpenAI's Responses API, without stored conversations and the maker's tools."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmcli.server.http.errors import ApiError
from llmcli.server.http.streams import PING, Channel, EventStream, cancelling, json_object, sse
from llmcli.server.openai.chat_events import ChatEvents
from llmcli.server.openai.chat_request import ChatAsked, read_chat
from llmcli.server.openai.fields import IGNORED, Fields
from llmcli.server.openai.replies import new_id
from llmcli.server.openai.tools import WrittenCall
from llmcli.server.service import Service


class Responses:
    """The endpoint."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, request: Request) -> Response:
        """Answer a request, whole or as a stream."""
        service, ready = self._service, self._service.needed()
        body = await json_object(request)
        asked = await service.prepare(lambda: read_chat(_as_chat(body), ready))
        service.check_model(asked.model)
        work, channel = service.submit(asked.reply, whole=not asked.stream)
        reply = _ResponseReply(asked, body, asked.model or ready.loaded.name, ChatEvents(asked, service.tokenizer))
        if asked.stream:
            return EventStream(reply.stream(channel), [work], failed=lambda error: sse(_error(service, error), "error"))
        async with cancelling(request.receive, [work]):
            await reply.events.end(channel)
        return JSONResponse(reply.value())


def _error(service: Service, error: Exception) -> dict[str, object]:
    detail: Any = service.error(error).value["error"]
    return {"type": "error", "code": detail["code"], "message": detail["message"], "param": detail["param"]}


def _as_chat(body: Mapping[str, Any]) -> dict[str, Any]:
    """The same request as a chat completion."""
    fields = Fields(body)
    given = fields.value("input")
    messages: list[Any] = [{"role": "user", "content": given}] if isinstance(given, str) else []
    if isinstance(given, list):
        messages = _messages(given)
    if not messages:
        raise ApiError("input must be a text or a list of messages.", param="input")
    if instructions := fields.text("instructions"):
        messages.insert(0, {"role": "system", "content": instructions})
    chat: dict[str, Any] = {"messages": messages, "max_tokens": fields.value("max_output_tokens")}
    for name in ("model", "temperature", "top_p", "stream", "parallel_tool_calls", "seed"):
        chat[name] = fields.value(name)
    if (reasoning := fields.inner("reasoning")) is not None:
        chat["reasoning_effort"] = reasoning.text("effort")
        reasoning.end(ignored=("summary", "generate_summary"))
    if (text := fields.inner("text")) is not None:
        chat["response_format"] = _format(text.value("format"))
        text.end(ignored=("verbosity",))
    if tools := fields.value("tools"):
        chat["tools"] = [_tool(tool) for tool in tools] if isinstance(tools, list) else tools
    choice = fields.value("tool_choice")
    is_named = isinstance(choice, dict) and choice.get("type") == "function"
    chat["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}} if is_named else choice
    fields.refuse_unless("previous_response_id", why="conversations are not stored; send the messages before")
    fields.refuse_unless("conversation", why="conversations are not stored; send the messages before")
    fields.refuse_unless("background", False, why="a reply is returned when it is complete")
    fields.refuse_unless("truncation", "disabled", why="nothing is cut")
    fields.refuse_unless("include", [], ["reasoning.encrypted_content"], why="it is not part of replies")
    fields.end(ignored=(*IGNORED, "client_metadata", "stream_options"))
    return {name: value for name, value in chat.items() if value is not None}


def _messages(items: list[object]) -> list[Any]:
    """Items as messages: thoughts, text and calls of one reply are one message."""
    messages = list[dict[str, Any]]()
    for item in items:
        kind = item.get("type", "message") if isinstance(item, dict) else item
        if not isinstance(item, dict) or kind not in ("message", "reasoning", "function_call", "function_call_output"):
            raise ApiError(
                f"input can have messages, reasoning and calls of functions with their outputs, not {kind!r}.",
                param="input",
            )
        if kind == "function_call_output":
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")})
            continue
        if kind == "message" and item.get("role") != "assistant":
            messages.append({"role": item.get("role"), "content": item.get("content")})
            continue
        # A message follows thoughts only, a call anything of the same reply.
        last = messages[-1] if messages else {}
        if last.get("role") != "assistant" or kind == "reasoning" or (kind == "message" and "content" in last):
            messages.append(last := {"role": "assistant"})
        if kind == "message":
            last["content"] = item.get("content")
        elif kind == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            last.setdefault("tool_calls", []).append(
                {"id": item.get("call_id"), "type": "function", "function": function}
            )
        else:
            parts = item.get("content") or []
            last["reasoning_content"] = "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))
    return messages


def _tool(tool: object) -> object:
    """A tool as chat completions have it."""
    if not isinstance(tool, dict) or tool.get("type") != "function":
        kind = tool.get("type") if isinstance(tool, dict) else tool
        raise ApiError(f"tools can have functions only, not {kind!r}.", param="tools")
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _format(value: object) -> object:
    """The form of a reply as chat completions spell it."""
    if isinstance(value, dict) and value.get("type") == "json_schema":
        return {"type": "json_schema", "json_schema": {name: each for name, each in value.items() if name != "type"}}
    return value


class _ResponseReply:
    """One reply, and its two forms."""

    def __init__(self, asked: ChatAsked, body: Mapping[str, Any], model: str, events: ChatEvents) -> None:
        self._asked, self._body, self._model, self.events = asked, body, model, events
        self._id, self._created = new_id("resp"), int(time.time())
        self._ids = {kind: new_id("rs" if kind == "reasoning" else "msg") for kind in ("reasoning", "message")}
        self._count = 0

    def value(self) -> dict[str, object]:
        """The reply as one object."""
        finish, params = self.events.finish, self._asked.reply.params
        cut = finish is not None and finish.reason in ("length", "context")
        said = finish is not None and (self.events.text() or not self.events.calls)
        kinds = (["reasoning"] if self.events.thinking() else []) + (["message"] if said else [])
        calls = [] if finish is None else [_call(call, done=True) for call in self.events.calls]
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": "in_progress" if finish is None else "incomplete" if cut else "completed",
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "instructions": self._body.get("instructions"),
            "max_output_tokens": params.max_tokens,
            "metadata": self._body.get("metadata") or {},
            "model": self._model,
            "output": [self._item(kind, done=True) for kind in kinds] + calls,
            "parallel_tool_calls": self._body.get("parallel_tool_calls") is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": params.temperature,
            "text": self._body.get("text") or {"format": {"type": "text"}},
            "tool_choice": self._body.get("tool_choice") or "auto",
            "tools": self._body.get("tools") or [],
            "top_p": params.top_p,
            "truncation": "disabled",
            "usage": None if finish is None else self._usage(),
        }

    async def stream(self, channel: Channel) -> AsyncIterator[bytes]:
        """The reply as server-sent events."""
        yield self._event("response.created", response=self.value())
        yield self._event("response.in_progress", response=self.value())
        index, current, told = -1, "", 0
        async for event in self.events.read(channel):
            if event is None:
                yield PING
                continue
            for kind, piece in (("reasoning", event.thinking), ("message", event.text)):
                if not piece:
                    continue
                if current != kind:
                    for part in self._closing(current, index):
                        yield part
                    index, current = index + 1, kind
                    yield self._event(
                        "response.output_item.added", output_index=index, item=self._item(kind, done=False)
                    )
                    yield self._event(
                        "response.content_part.added", **self._place(kind, index), part=self._part(kind, "")
                    )
                name = "reasoning_text" if kind == "reasoning" else "output_text"
                more: dict[str, object] = {} if kind == "reasoning" else {"logprobs": []}
                yield self._event(f"response.{name}.delta", **self._place(kind, index), delta=piece, **more)
            for call in self.events.calls[told:]:
                for part in self._closing(current, index):
                    yield part
                index, current, told = index + 1, "", told + 1
                for part in self._call_events(call, index):
                    yield part
        for part in self._closing(current, index):
            yield part
        done = self.value()
        yield self._event(f"response.{done['status']}", response=done)

    def _closing(self, kind: str, index: int) -> list[bytes]:
        """The events at the end of an item."""
        if not kind:
            return []
        text, place = self._text(kind), self._place(kind, index)
        name = "reasoning_text" if kind == "reasoning" else "output_text"
        more: dict[str, object] = {} if kind == "reasoning" else {"logprobs": []}
        return [
            self._event(f"response.{name}.done", **place, text=text, **more),
            self._event("response.content_part.done", **place, part=self._part(kind, text)),
            self._event("response.output_item.done", output_index=index, item=self._item(kind, done=True)),
        ]

    def _call_events(self, call: WrittenCall, index: int) -> list[bytes]:
        """The events of a call, which is complete."""
        place: dict[str, object] = {"item_id": f"fc_{call.id}", "output_index": index}
        name = "response.function_call_arguments"
        return [
            self._event("response.output_item.added", output_index=index, item=_call(call, done=False)),
            self._event(f"{name}.delta", **place, delta=call.arguments),
            self._event(f"{name}.done", **place, name=call.name, arguments=call.arguments),
            self._event("response.output_item.done", output_index=index, item=_call(call, done=True)),
        ]

    def _event(self, kind: str, **fields: object) -> bytes:
        self._count += 1
        return sse({"type": kind, "sequence_number": self._count - 1, **fields}, kind)

    def _place(self, kind: str, index: int) -> dict[str, object]:
        return {"item_id": self._ids[kind], "output_index": index, "content_index": 0}

    def _text(self, kind: str) -> str:
        return self.events.thinking() if kind == "reasoning" else self.events.text()

    def _part(self, kind: str, text: str) -> dict[str, object]:
        if kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _item(self, kind: str, *, done: bool) -> dict[str, object]:
        content = [self._part(kind, self._text(kind))] if done else []
        status = "completed" if done else "in_progress"
        more: dict[str, object] = {"summary": []} if kind == "reasoning" else {"role": "assistant"}
        return {"id": self._ids[kind], "type": kind, "status": status, "content": content, **more}

    def _usage(self) -> dict[str, object]:
        finish = self.events.finish
        assert finish is not None
        stats = finish.stats
        return {
            "input_tokens": stats.prompt_tokens,
            "input_tokens_details": {"cached_tokens": stats.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": stats.generated_tokens,
            "output_tokens_details": {"reasoning_tokens": self.events.reasoning_tokens},
            "total_tokens": stats.prompt_tokens + stats.generated_tokens,
        }


def _call(call: WrittenCall, *, done: bool) -> dict[str, object]:
    """A call as an item."""
    return {
        "id": f"fc_{call.id}",
        "type": "function_call",
        "status": "completed" if done else "in_progress",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments if done else "",
    }
