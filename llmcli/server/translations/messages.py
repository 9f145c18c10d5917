"""`POST /v1/messages`: Anthropic's Messages API. Its last message can be the beginning of the reply."""

from __future__ import annotations

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
    chat: dict[str, Any] = {"messages": [_message(message) for message in messages]}
    if system:
        chat["messages"].insert(0, {"role": "system", "content": system})
    chat["continue_final_message"] = chat["messages"][-1].get("role") == "assistant"
    thinking = fields.inner("thinking")
    if thinking is not None and thinking.text("type") == "disabled":
        chat["reasoning_effort"] = "none"
    for name in ("model", "max_tokens", "temperature", "top_p", "top_k", "stream"):
        if (value := fields.value(name)) is not None:
            chat[name] = value
    fields.refuse_unless("tools", [], why="/v1/chat/completions has them")
    fields.refuse_unless("tool_choice", {"type": "none"}, {"type": "auto"}, why="/v1/chat/completions has it")
    chat["stop"] = fields.value("stop_sequences")
    fields.end(ignored=("metadata", "service_tier", "container", "context_management"))
    return chat


def _message(message: object) -> Any:
    """A message whose thoughts are in the field that chat completions have for them."""
    if not isinstance(message, dict) or not isinstance(message.get("content"), list):
        return message
    thoughts, parts = [], []
    for part in message["content"]:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "thinking":
            thoughts.append(str(part.get("thinking", "")))
        elif isinstance(part, dict):
            parts.append({name: value for name, value in part.items() if name != "cache_control"})
        else:
            parts.append(part)
    return {**message, "content": parts} | ({"reasoning_content": "\n".join(thoughts)} if thoughts else {})


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
        if finish is not None:
            content.append({"type": "text", "text": self.events.text()})
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
        index, kind = -1, ""
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
        if kind:
            yield _event("content_block_stop", index=index)
        finish = self.events.finish
        assert finish is not None
        yield _event("message_delta", delta=self._ending(finish), usage=self._usage(finish))
        yield _event("message_stop")

    def _ending(self, finish: Finish) -> dict[str, object]:
        stops = self._asked.reply.params.stop
        known = stops[0] if finish.reason == "stop_string" and len(stops) == 1 else None
        return {"stop_reason": _REASONS[finish.reason], "stop_sequence": known}

    def _usage(self, finish: Finish | None) -> dict[str, object]:
        cached = 0 if finish is None else finish.stats.cached_tokens
        return {
            "input_tokens": len(self._asked.reply.ids) - cached,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": 0,
            "output_tokens": 0 if finish is None else finish.stats.generated_tokens,
        }


def _event(kind: str, **fields: object) -> bytes:
    return sse({"type": kind, **fields}, kind)
