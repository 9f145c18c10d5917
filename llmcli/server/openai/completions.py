"""`POST /v1/completions`: texts to continue, with the log-probabilities of the prompt if it is echoed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmcli.engine.events import Finish, Stats, Step
from llmcli.engine.logprobs import TokenLogprobs
from llmcli.server.http.streams import PING, EventStream, cancelling, json_object, sse
from llmcli.server.openai.completion_request import CompletionAsked, Prompt, read_completion
from llmcli.server.openai.forms import room_for
from llmcli.server.openai.replies import FINGERPRINT, TextLogprobs, TokenValues, finish_reason, new_id, usage
from llmcli.server.scheduler.work import PromptLogprobs, Work
from llmcli.server.service import Ready, Service


class Completions:
    """The endpoint."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, request: Request) -> Response:
        """Answer a request, whole or as a stream."""
        service, ready = self._service, self._service.needed()
        body = await json_object(request)
        asked = await service.prepare(lambda: read_completion(body, ready))
        service.check_model(asked.model)
        for prompt in asked.prompts:
            # An error of one is one of the request, and comes before anything is computed.
            room_for(prompt.ids, asked.params, ready.scheduler.context_length)
        replies = _Replies(asked, ready, service)
        if asked.stream:
            return EventStream(replies.stream(), replies.works, failed=lambda error: sse(service.error(error).value))
        async with cancelling(request.receive, replies.works):
            return JSONResponse(await replies.whole())


class _Replies:
    """The replies to all prompts of a request."""

    def __init__(self, asked: CompletionAsked, ready: Ready, service: Service) -> None:
        self._asked, self._ready, self._service = asked, ready, service
        self._head = {
            "id": new_id("cmpl"),
            "object": "text_completion",
            "created": int(time.time()),
            "model": asked.model or ready.loaded.name,
            "system_fingerprint": FINGERPRINT,
        }
        self.works: list[Work] = []
        # Later prompts wait here, so that one request does not fill the queue.
        self._room = asyncio.Semaphore(ready.scheduler.rows)

    async def whole(self) -> dict[str, object]:
        """All replies as one object."""
        numbered = enumerate(self._asked.prompts)
        found = await asyncio.gather(*(self._choice(index, prompt) for index, prompt in numbered))
        choices = [choice for choice, _ in found]
        return {**self._head, "choices": choices, "usage": usage(stats for _, stats in found)}

    async def stream(self) -> AsyncIterator[bytes]:
        """All replies as server-sent events, mixed as they come."""
        queue: asyncio.Queue[bytes | Stats | Exception] = asyncio.Queue()
        tasks = [
            asyncio.create_task(self._pass_on(index, prompt, queue)) for index, prompt in enumerate(self._asked.prompts)
        ]
        done: list[Stats] = []
        try:
            while len(done) < len(tasks):
                # What comes together is sent together: sending takes longer than writing it.
                found = [await queue.get()]
                while not queue.empty():
                    found.append(queue.get_nowait())
                yield b"".join(piece for piece in found if isinstance(piece, bytes))
                done += [piece for piece in found if isinstance(piece, Stats)]
                for error in (piece for piece in found if isinstance(piece, Exception)):
                    raise error
        finally:
            for task in tasks:
                task.cancel()
        if self._asked.include_usage:
            yield sse({**self._head, "choices": [], "usage": usage(done)})
        yield sse("[DONE]")

    async def _pass_on(self, index: int, prompt: Prompt, queue: asyncio.Queue[bytes | Stats | Exception]) -> None:
        try:
            async for choice, stats in self._parts(index, prompt):
                await queue.put(PING if choice is None else sse({**self._head, "choices": [choice]}))
                if stats is not None:
                    await queue.put(stats)
        except Exception as error:
            await queue.put(error)

    async def _choice(self, index: int, prompt: Prompt) -> tuple[dict[str, object], Stats]:
        """One reply, and its statistics."""
        text, parts, ids, reason = "", [], [], ""
        found: Stats | None = None
        async for choice, stats in self._parts(index, prompt):
            if choice is not None:
                text += str(choice["text"])
                parts.append(choice["logprobs"])
                ids += choice.get("token_ids", [])
                reason = choice["finish_reason"] or reason
            found = stats or found
        assert found is not None
        whole: dict[str, object] = {"index": index, "text": text, "finish_reason": reason, "logprobs": _joined(parts)}
        if self._asked.token_ids:
            whole |= {"token_ids": ids, "prompt_token_ids": list(prompt.ids)}
        return whole, found

    async def _parts(self, index: int, prompt: Prompt) -> AsyncIterator[tuple[dict[str, Any] | None, Stats | None]]:
        """The choices of a stream, the last with the statistics; None instead of one after a long silence."""
        asked = self._asked
        logprobs = TextLogprobs(self._ready.loaded.tokenizer) if asked.logprobs is not None else None

        def choice(
            text: str, tokens: Sequence[tuple[int, TokenValues | None]] = (), reason: str | None = None
        ) -> dict[str, Any]:
            value = None if logprobs is None or not tokens else logprobs.value(tokens)
            made: dict[str, Any] = {"index": index, "text": text, "finish_reason": reason, "logprobs": value}
            return made | ({"token_ids": [token for token, _ in tokens]} if asked.token_ids else {})

        async with self._room:
            request = await self._service.prepare(lambda: asked.reply(prompt, self._ready))
            work, channel = self._service.submit(request, whole=not asked.stream)
            self.works.append(work)
            if asked.echo and logprobs is None:
                yield choice(prompt.text), None
            async for event in channel.events():
                if event is None:
                    yield None, None
                elif isinstance(event, PromptLogprobs):
                    values: Sequence[TokenLogprobs | None] = event.tokens
                    yield choice(prompt.text, list(zip(prompt.ids, values, strict=True))) | {"token_ids": []}, None
                elif isinstance(event, Step) and (event.text or logprobs or asked.token_ids):
                    yield choice(event.text, [(event.id, event)]), None
                elif isinstance(event, Finish):
                    reason = finish_reason(event.reason if asked.writes else "length")
                    yield choice(event.text, reason=reason), event.stats


def _joined(parts: Sequence[dict[str, list[object]] | None]) -> dict[str, list[object]] | None:
    """The log-probabilities of all parts of a reply."""
    found = [part for part in parts if part is not None]
    if not found:
        return None
    return {name: [item for part in found for item in part[name]] for name in found[0]}
