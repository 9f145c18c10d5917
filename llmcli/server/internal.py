"""The command line's protocol; see `llmcli.server.wire` and `llmcli.server.registry`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmcli.device import peak_memory_bytes
from llmcli.engine.events import Event, Finish, Prefill, Step
from llmcli.errors import LlmcliError
from llmcli.server.command_line.after import reply_attention, run_record
from llmcli.server.command_line.reply import CommandReply
from llmcli.server.http.streams import Channel, EventStream, json_object
from llmcli.server.openai.forms import room_for
from llmcli.server.request_log import log_saved
from llmcli.server.scheduler.work import ReadSoFar, ReplyRequest, Work
from llmcli.server.service import Ready, Service
from llmcli.server.wire import (
    GenerateRequest,
    ReplyBegin,
    attention_value,
    begin_value,
    event_value,
    line,
    read_request,
)


class Internal:
    """The endpoints for this program's commands."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._named: dict[str, Work] = {}
        """The replies that have an id."""

    async def generate(self, request: Request) -> Response:
        """Generate a reply, event by event."""
        service, ready = self._service, self._service.needed()
        try:
            asked = read_request(await json_object(request, surrogates=True))
            reply = await service.prepare(lambda: _prepared(asked, ready))
        except LlmcliError as error:
            return refusal(service, error)
        work, channel = (
            service.submit(reply.work) if asked.session is None else service.submit_chat(asked.session, reply.work)
        )
        if asked.id is not None:
            self._named[asked.id] = work
        if asked.saved:
            log_saved()
        works: list[Work] = [work]
        pieces = self._lines(reply, works, channel)
        return EventStream(pieces, works, media_type="application/x-ndjson", failed=self.failed)

    async def cancel(self, request: Request) -> Response:
        """End a reply as Ctrl-C does; its last event follows."""
        name = (await json_object(request, surrogates=True)).get("id")
        work = self._named.get(name) if isinstance(name, str) else None
        if work is not None:
            work.cancel()
        return JSONResponse({"found": work is not None})

    async def server(self, request: Request) -> Response:
        """What a client on another machine must know of the server: its model, without paths of this machine."""
        ready = self._service.needed()
        state = ready.state
        identity = asdict(state.identity)
        for name in ("files", "edits"):
            identity[name] = [(Path(path).name, size) for path, size, _ in identity[name]]
        names = ("name", "pid", "started", "model", "path", "vocab_size", "context_length")
        return JSONResponse({**{name: getattr(state, name) for name in names}, "identity": identity})

    async def status(self, request: Request) -> Response:
        """The state of the server, and what it does."""
        ready = self._service.needed()
        busy = ready.scheduler.load()
        idle = 0.0 if any(busy.values()) else time.monotonic() - ready.scheduler.last_active
        more = {
            "busy": busy["running"],
            "waiting": busy["waiting"],
            "idle_s": idle,
            "memory_bytes": peak_memory_bytes(ready.loaded.model.device),
            "cache_bytes": ready.scheduler.kept.nbytes,
            "requests": self._service.requests,
        }
        return JSONResponse(asdict(ready.state) | more)

    async def stop(self, request: Request) -> Response:
        """End the server once what runs is done."""
        self._service.stop()
        return JSONResponse({"status": "stopping"})

    async def _lines(self, reply: _Prepared, works: list[Work], channel: Channel) -> AsyncIterator[bytes]:
        """The lines of a reply."""
        try:
            async for piece in _reply_lines(self._service, reply, works, channel):
                yield piece
        finally:
            if reply.asked.id is not None and self._named.get(reply.asked.id) in works:
                del self._named[reply.asked.id]

    def failed(self, error: Exception) -> bytes:
        """The last line after an error."""
        found = self._service.error(error)
        code = error.exit_code if isinstance(error, LlmcliError) else 1
        return line({"event": "error", "message": str(found), "exit_code": code})


def refusal(service: Service, error: LlmcliError) -> Response:
    """The answer to a request that does not suit the model, with the exit code of the command."""
    found = service.error(error)
    detail = cast("dict[str, object]", found.value["error"])
    return JSONResponse({"error": detail | {"exit_code": error.exit_code}}, found.status)


@dataclass(frozen=True)
class _Prepared:
    """A request with its prompt."""

    asked: GenerateRequest
    ready: Ready
    command: CommandReply
    begin: ReplyBegin
    work: ReplyRequest


def _prepared(asked: GenerateRequest, ready: Ready) -> _Prepared:
    """Encode the prompt of a request and complete its settings.

    Raises:
        LlmcliError: the request does not suit the model.
    """
    command = CommandReply(ready.loaded, asked)
    context = min(asked.context or ready.scheduler.context_length, ready.scheduler.context_length)
    room = room_for([*command.ids, *asked.begun], command.params, context)
    if command.constraint is not None:
        command.constraint.begin(room)
    work = ReplyRequest(
        command.ids,
        command.params,
        is_chat=command.is_chat,
        begun=asked.begun,
        start=command.start,
        constraint=command.constraint,
        probabilities=command.probabilities,
        top=asked.top,
        context=context,
        ends=command.ends,
    )
    begin = command.begin(context_length=context, path=ready.scheduler.path)
    return _Prepared(asked, ready, command, begin, work)


async def _reply_lines(service: Service, reply: _Prepared, works: list[Work], channel: Channel) -> AsyncIterator[bytes]:
    command = reply.command
    yield line(begin_value(reply.begin))
    steps: list[Step] = []
    finish: Finish | None = None
    async for event in channel.events():
        if isinstance(event, ReadSoFar):
            yield line({"event": "progress", "done": event.done, "total": event.total})
        elif isinstance(event, Prefill | Step | Finish):
            split = command.split(event)
            if isinstance(split, Step):
                steps.append(split)
            finish = split if isinstance(split, Finish) else finish
            yield line(_value(command, split, reply.ready))
    assert finish is not None
    async for piece in _after(service, reply, works, steps, finish):
        yield piece
    yield line({"event": "end"})


def _value(command: CommandReply, event: Event, ready: Ready) -> dict[str, object]:
    value = event_value(event, ready.loaded.tokenizer.token_bytes, raw=command.raw_text)
    if isinstance(event, Prefill):
        return value | {"can_end": command.can_end}
    if isinstance(event, Finish):
        return value | {"complete": command.complete, "awaits_answer": command.awaits_answer}
    return value


async def _after(
    service: Service, reply: _Prepared, works: list[Work], steps: Sequence[Step], finish: Finish
) -> AsyncIterator[bytes]:
    """The attention and the record, if they are requested; what is computed for them is added to `works`."""
    asked, ready = reply.asked, reply.ready
    if asked.attention_by is not None and steps:
        reading = reply_attention(ready.loaded, reply.command, asked, steps)
        work, channel = service.start(reading.read)
        works.append(work)
        failure: LlmcliError | None = None
        try:
            async for event in channel.events():
                if isinstance(event, ReadSoFar):
                    yield line({"event": "progress", "done": event.done, "total": event.total})
        except LlmcliError as error:
            failure = error
        logprobs: Sequence[float | None] = reading.logprobs or [None] * len(reading.rows)
        for step, row, logprob in zip(steps, reading.rows, logprobs, strict=False):
            yield line(attention_value(step.index, row, logprob))
        if failure is not None:
            raise failure
    if asked.record:
        # Hashing the model's files needs no model.
        value = await service.prepare(
            lambda: run_record(
                ready.loaded,
                ready.checkpoint,
                reply.command,
                reply.begin,
                steps,
                finish,
                text=asked.prompt.text,
                progress=lambda done, total: None,
            )
        )
        yield line({"event": "record", "value": value})
