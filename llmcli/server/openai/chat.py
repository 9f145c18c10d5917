"""`POST /v1/chat/completions`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmcli.engine.events import Finish, Step
from llmcli.server.http.streams import PING, Channel, EventStream, cancelling, json_object, sse
from llmcli.server.openai.chat_events import ChatEvents
from llmcli.server.openai.chat_request import ChatAsked, read_chat
from llmcli.server.openai.replies import FINGERPRINT, chat_logprobs, finish_reason, new_id, timings, usage
from llmcli.server.openai.tools import WrittenCall
from llmcli.server.service import Ready, Service
from llmcli.text.tokenizer import Tokenizer


class ChatCompletions:
    """The endpoint."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, request: Request) -> Response:
        """Answer a request, whole or as a stream."""
        service, ready = self._service, self._service.needed()
        body = await json_object(request)
        asked = await service.prepare(lambda: read_chat(body, ready))
        service.check_model(asked.model)
        work, channel = service.submit(asked.reply, whole=not asked.stream)
        reply = ChatReply(asked, ready)
        if asked.stream:
            return EventStream(reply.stream(channel), [work], failed=lambda error: sse(service.error(error).value))
        async with cancelling(request.receive, [work]):
            return JSONResponse(await reply.whole(channel))


class ChatReply:
    """One reply, and its two forms."""

    def __init__(self, asked: ChatAsked, ready: Ready) -> None:
        self._asked, self._tokenizer = asked, ready.loaded.tokenizer
        self._model = asked.model or ready.loaded.name
        self._id, self._created = new_id("chatcmpl"), int(time.time())
        self._events = ChatEvents(asked, self._tokenizer)

    async def whole(self, channel: Channel) -> dict[str, object]:
        """The reply as one object."""
        finish = await self._events.end(channel)
        steps, thinking = self._events.steps, self._events.thinking() or None
        message: dict[str, object] = {
            "role": "assistant",
            "content": self._events.text() or (None if self._events.calls else ""),
            "refusal": None,
            "reasoning_content": thinking,
            "reasoning": thinking,
            "tool_calls": [call.value for call in self._events.calls],
        }
        choice: dict[str, object] = {
            "index": 0,
            "message": message,
            "finish_reason": self._reason(finish),
            "logprobs": chat_logprobs(steps, self._tokenizer) if self._asked.logprobs else None,
        }
        if self._asked.token_ids:
            choice["token_ids"] = [step.id for step in steps]
        return self._head("chat.completion") | {"choices": [choice]} | self._ending(finish) | self._more()

    async def stream(self, channel: Channel) -> AsyncIterator[bytes]:
        """The reply as server-sent events."""
        yield self._chunk({"role": "assistant", "content": ""}, more=self._more())
        # Chunks of tokens that come together are sent together: sending takes longer than writing them.
        chunks: list[bytes] = []
        told = 0
        async for event in self._events.read(channel):
            if event is None:
                chunks.append(PING)
            else:
                chunks += self._chunks(event, self._events.calls[told:])
                told = len(self._events.calls)
            if not channel.has_more:
                yield b"".join(chunks)
                chunks.clear()
        yield sse("[DONE]")

    def _chunks(self, event: Step | Finish, calls: Sequence[WrittenCall]) -> Iterator[bytes]:
        """The chunks of an event and of the calls that it has completed."""
        delta = _delta(event)
        if calls:
            delta["tool_calls"] = [{"index": call.index, **call.value} for call in calls]
        if isinstance(event, Step):
            if delta or self._asked.logprobs or self._asked.token_ids:
                yield self._chunk(delta or {"content": ""}, [event])
            return
        if delta:
            yield self._chunk(delta)
        yield self._chunk({}, finish=event)
        if self._asked.include_usage:
            yield sse(self._head("chat.completion.chunk") | {"choices": []} | self._ending(event))

    def _head(self, kind: str) -> dict[str, object]:
        names = {"id": self._id, "object": kind, "created": self._created, "model": self._model}
        return {**names, "system_fingerprint": FINGERPRINT}

    def _reason(self, finish: Finish) -> str:
        """OpenAI's word for the end of the reply."""
        ended = finish.reason in ("stop", "stop_string")
        return "tool_calls" if self._events.calls and ended else finish_reason(finish.reason)

    def _ending(self, finish: Finish) -> dict[str, object]:
        counts = usage([finish.stats], self._events.reasoning_tokens)
        return {"usage": counts, "timings": timings(self._events.prefill, finish)}

    def _more(self) -> dict[str, object]:
        """What the client should know about its prompt."""
        more: dict[str, object] = {"notes": list(self._asked.notes)} if self._asked.notes else {}
        return more | ({"prompt_token_ids": list(self._asked.reply.ids)} if self._asked.token_ids else {})

    def _chunk(
        self,
        delta: dict[str, object],
        steps: Sequence[Step] = (),
        *,
        finish: Finish | None = None,
        more: dict[str, object] | None = None,
    ) -> bytes:
        choice: dict[str, object] = {
            "index": 0,
            "delta": delta,
            "finish_reason": None if finish is None else self._reason(finish),
            "logprobs": self._logprobs(steps, self._tokenizer),
        }
        if self._asked.token_ids:
            choice["token_ids"] = [step.id for step in steps]
        value = self._head("chat.completion.chunk") | {"choices": [choice]} | (more or {})
        return sse(value if finish is None else value | {"timings": timings(self._events.prefill, finish)})

    def _logprobs(self, steps: Sequence[Step], tokenizer: Tokenizer) -> dict[str, object] | None:
        return chat_logprobs(steps, tokenizer) if self._asked.logprobs and steps else None


def _delta(event: Step | Finish) -> dict[str, object]:
    """The new text of an event; both names of a thought are in use."""
    delta: dict[str, object] = {}
    if event.thinking:
        delta |= {"reasoning_content": event.thinking, "reasoning": event.thinking}
    if event.text:
        delta["content"] = event.text
    return delta
