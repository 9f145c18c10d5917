"""Work whose events are read by a connection, and ended when the client is gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llmcli.engine.events import Finish
from llmcli.server.http.errors import ApiError
from llmcli.server.request_log import log_reply
from llmcli.server.scheduler.work import Failed, Result, Work, WorkEvent
from llmcli.text.chat_template.json_text import json_text

# Half of a surrogate pair, as JSON writes it.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_PING_S = 30.0
"""Seconds without an event after which a stream gets a comment, so that nothing on the way closes it."""


class Channel:
    """Takes events from the scheduler's thread to the event loop."""

    def __init__(self, *, whole: bool = False) -> None:
        """With `whole`, all events come together at the end: waking the event loop takes time of the other replies."""
        self._loop, self._whole = asyncio.get_running_loop(), whole
        self._held: list[WorkEvent] = []
        self.has_more = False
        """Whether the event that `events` gave last is followed by one that has come with it."""
        self._queue: asyncio.Queue[Sequence[WorkEvent]] = asyncio.Queue()
        # Each is counted in one thread only.
        self._delivered = self._taken = 0
        self.took: Callable[[], None] = lambda: None
        """Called when an event has been sent to the client."""

    @property
    def waiting(self) -> int:
        """How many events have not been sent yet."""
        return self._delivered - self._taken

    def deliver(self, events: Sequence[WorkEvent]) -> None:
        """Add events; never waits. Called in the scheduler's thread."""
        if not events:
            return
        self._delivered += len(events)
        if self._whole:
            self._held += events
            if not isinstance(events[-1], Finish | Failed | Result):
                return
            events = self._held
        # The loop is closed if the server has been stopped at once.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._queue.put_nowait, events)

    async def events(self, ping_s: float = _PING_S) -> AsyncIterator[WorkEvent | None]:
        """All events up to the last; None after `ping_s` seconds without one.

        Raises:
            Exception: the error of work that has failed.
        """
        while True:
            try:
                events = await asyncio.wait_for(self._queue.get(), ping_s)
            except asyncio.TimeoutError:
                yield None
                continue
            for number, event in enumerate(events, 1):
                self.has_more = number < len(events)
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Finish):
                    log_reply(event)
                yield event
                self._taken += 1
                self.took()
                if isinstance(event, Finish | Result):
                    return


@contextlib.asynccontextmanager
async def cancelling(receive: Receive, works: Sequence[Work]) -> AsyncIterator[None]:
    """Cancel `works` when the client closes the connection, and when the block ends."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        for work in works:
            work.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        for work in works:
            work.cancel()


class EventStream(Response):
    """A response whose pieces are sent as they come."""

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        works: Sequence[Work],
        *,
        failed: Callable[[Exception], bytes],
        media_type: str = "text/event-stream",
    ) -> None:
        """`works` end when the client is gone. `failed` gives the last piece after an error."""
        super().__init__(media_type=media_type, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._pieces, self._works, self._failed = pieces, works, failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        async with cancelling(receive, self._works):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                async for piece in self._pieces:
                    if not piece:
                        continue
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            except Exception as error:
                await send({"type": "http.response.body", "body": self._failed(error), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def sse(value: Mapping[str, object] | str, event: str | None = None) -> bytes:
    """A server-sent event with JSON, or with a word, as its data."""
    data = value if isinstance(value, str) else json_text(value)
    return (f"event: {event}\n" if event else "").encode() + f"data: {data}\n\n".encode()


PING = b": ping\n\n"
"""A comment, which clients ignore."""


async def json_object(request: Request, *, surrogates: bool = False) -> dict[str, Any]:
    """The JSON object in the body of a request.

    Raises:
        ApiError: the body has another type, is not valid JSON, or is no object; or, without `surrogates`, a text in it
            has half of a surrogate pair, which is no character.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(
            f"The body must be JSON, with the header Content-Type: application/json, not {kind!r}.", status=415
        )
    body = await request.body()
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(f"The body is not valid JSON: {error}.") from None
    if not isinstance(value, dict):
        raise ApiError("The body must be a JSON object.")
    if not surrogates and _SURROGATE.search(body) is not None:
        for name, item in value.items():
            if _has_surrogate(name) or _has_surrogate(item):
                shown = name.encode(errors="replace").decode()
                raise ApiError(
                    f"{shown} has half of a surrogate pair (as \\ud83d), which is no character.", param=shown
                )
    return value


def _has_surrogate(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False
