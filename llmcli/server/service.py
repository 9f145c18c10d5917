"""What all endpoints share: the loaded model, the scheduler, and a thread that prepares requests."""

from __future__ import annotations

import asyncio
import os
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from starlette.types import Receive

from llmcli.checkpoint.checkpoint import Checkpoint
from llmcli.engine.prefill import PrefillProgress
from llmcli.errors import LlmcliError
from llmcli.loaded_model import LoadedModel
from llmcli.server.http.errors import ApiError, api_error
from llmcli.server.http.streams import Channel, cancelling
from llmcli.server.registry import ServerState
from llmcli.server.scheduler.scheduler import Scheduler
from llmcli.server.scheduler.work import (
    CancelledError,
    Computation,
    Deliver,
    ReadSoFar,
    ReplyRequest,
    ReplyWork,
    Result,
    Work,
    once,
)
from llmcli.text.tokenizer import Tokenizer

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Ready:
    """A model that is loaded."""

    loaded: LoadedModel
    checkpoint: Checkpoint
    scheduler: Scheduler
    state: ServerState
    created: int = field(default_factory=lambda: int(time.time()))
    """Seconds since the epoch."""


class Service:
    """The part of the server that knows the model; before it is loaded, requests are refused."""

    def __init__(
        self,
        *,
        strict_model: bool = False,
        metrics: bool = False,
        tell: Callable[[str], None] = lambda line: None,
        stop: Callable[[], None] = lambda: None,
    ) -> None:
        """With `strict_model`, a request must name the model that is served; with `metrics`, there are /metrics.

        `tell` is called with a sentence about a failure of the program itself, `stop` to end the server.
        """
        self.strict_model, self.metrics, self.tell, self.stop = strict_model, metrics, tell, stop
        self.ready: Ready | None = None
        self.requests = 0
        """Requests for work so far."""
        # One thread: rendering a chat template changes its counters.
        self._preparing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prepare")

    def needed(self) -> Ready:
        """The loaded model.

        Raises:
            ApiError: it is not loaded yet.
        """
        if self.ready is None:
            raise ApiError("The model is being loaded.", status=503, code="loading")
        return self.ready

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self.needed().loaded.tokenizer

    def check_model(self, name: str | None) -> None:
        """Check the model that a request names.

        Raises:
            ApiError: another is served, and `strict_model` is set.
        """
        served = self.needed().loaded.name
        if self.strict_model and name != served:
            raise ApiError(
                f"The model {name!r} is not served here, only {served}.",
                status=404,
                param="model",
                code="model_not_found",
            )

    def error(self, error: Exception) -> ApiError:
        """`error` for a client; a failure of the program itself is also told here."""
        found = api_error(error)
        if not isinstance(error, LlmcliError):
            trace = error.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            place = "" if trace is None else f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
            # Only type and place: the text of an unknown error could quote a prompt.
            self.tell(f"A request failed, which is a bug in llmcli: {type(error).__name__}{place}.")
            if os.environ.get("LLMCLI_DEBUG") == "1":
                traceback.print_exception(error)
        return found

    async def prepare(self, make: Callable[[], _Value]) -> _Value:
        """The result of `make`, called in another thread: encoding a long text takes time."""
        return await asyncio.get_running_loop().run_in_executor(self._preparing, make)

    def submit(self, request: ReplyRequest, *, whole: bool = False) -> tuple[ReplyWork, Channel]:
        """Queue a reply; its events come through the channel, with `whole` all at its end.

        Raises:
            OverloadedError: too much is waiting.
        """
        channel = Channel(whole=whole)
        work = ReplyWork(request, channel.deliver)
        self._queue(work)
        return work, channel

    def submit_chat(self, session: str, request: ReplyRequest) -> tuple[Computation, Channel]:
        """Queue a reply in a chat of the command line; its events come through the channel.

        Raises:
            OverloadedError: too much is waiting.
        """
        channel = Channel()
        work = self.needed().scheduler.chats.reply(session, request, channel.deliver)
        self._queue(work)
        return work, channel

    def start(self, compute: Callable[[PrefillProgress], object]) -> tuple[Computation, Channel]:
        """Queue a computation; its progress, in tokens, and its result come through the channel.

        Raises:
            OverloadedError: too much is waiting.
        """
        channel = Channel()

        def progress(done: int, total: int) -> None:
            if work.cancelled:
                raise CancelledError("The client is gone.")
            channel.deliver([ReadSoFar(done, total)])

        work = Computation(once(lambda: compute(progress)), channel.deliver)
        self._queue(work)
        return work, channel

    def start_parts(
        self, parts: Callable[[Deliver], Iterator[object]], *, most_waiting: int = 64
    ) -> tuple[Computation, Channel]:
        """Queue a computation in parts; what they deliver and their result come through the channel.

        While the client has not taken `most_waiting` events, the next part waits.

        Raises:
            OverloadedError: too much is waiting.
        """
        channel, scheduler = Channel(), self.needed().scheduler
        channel.took = scheduler.wake
        work = Computation(parts(channel.deliver), channel.deliver, has_room=lambda: channel.waiting < most_waiting)
        self._queue(work)
        return work, channel

    async def compute(self, compute: Callable[[PrefillProgress], object], receive: Receive) -> object:
        """The result of a computation, which ends when the client of `receive` is gone.

        Raises:
            OverloadedError: too much is waiting.
        """
        work, channel = self.start(compute)
        async with cancelling(receive, [work]):
            async for event in channel.events():
                if isinstance(event, Result):
                    return event.value
        raise AssertionError("a computation ends with its result")

    def _queue(self, work: Work) -> None:
        self.needed().scheduler.submit(work)
        self.requests += 1

    def close(self) -> None:
        """End the thread that prepares requests."""
        self._preparing.shutdown(wait=False, cancel_futures=True)
