"""Answer many prompts with a server, several at a time, in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass

from llmcli.client.connection import NoServerError, ServerEndedError
from llmcli.client.reply import ServedReply
from llmcli.engine.batch.results import BatchReply, BatchStats
from llmcli.engine.events import Finish, Prefill
from llmcli.engine.interrupt import Interruption
from llmcli.errors import LlmcliError
from llmcli.server.registry import ServerState
from llmcli.server.wire import GenerateRequest

# How many later replies may be complete and wait for an earlier one, as a multiple of those at a time.
_AHEAD = 4
_LOOK_EVERY_S = 0.1


@dataclass(frozen=True)
class ServedResult:
    """The outcome of one request, and the seed of its reply."""

    outcome: BatchReply | LlmcliError
    seed: int | None = None
    finish: Finish | None = None


class ServedBatch:
    """Answers requests with a server, up to `parallel` at a time."""

    def __init__(self, server: ServerState, parallel: int, tell: Callable[[str], None]) -> None:
        """`tell` is called once with each different note on a prompt."""
        self._server, self._parallel, self._tell = server, parallel, tell
        self._told: set[str] = set()
        self._open: set[ServedReply] = set()
        self._ends = False
        self.stats = BatchStats(server.path)

    def run(
        self, requests: Iterable[GenerateRequest | LlmcliError], interruption: Interruption
    ) -> Iterator[ServedResult]:
        """The result of each request in order; an error among the requests is its own result.

        A request of `interruption` ends the iteration after the results that are complete.

        Raises:
            LlmcliError: the server does not answer, or ended.
        """
        started = time.perf_counter()
        waiting: deque[Future[ServedResult]] = deque()
        source = iter(requests)
        with ThreadPoolExecutor(self._parallel, thread_name_prefix="batch") as threads:
            try:
                while True:
                    while len(waiting) < self._parallel * _AHEAD:
                        request = next(source, None)
                        if request is None:
                            break
                        waiting.append(threads.submit(self._answer, request))
                    if not waiting:
                        return
                    if not _is_done(waiting[0], interruption):
                        return
                    result = waiting.popleft().result()
                    self._count(result, time.perf_counter() - started)
                    yield result
            finally:
                self._ends = True
                for each in waiting:
                    each.cancel()
                for reply in tuple(self._open):
                    reply.abort()

    def _answer(self, request: GenerateRequest | LlmcliError) -> ServedResult:
        """Generate one reply; an error of the request is its result."""
        if isinstance(request, LlmcliError):
            return ServedResult(request)
        try:
            return self._reply(request)
        except (NoServerError, ServerEndedError):
            raise
        except LlmcliError as error:
            return ServedResult(error)

    def _reply(self, request: GenerateRequest) -> ServedResult:
        reply = ServedReply(self._server, request, self._note)
        text, thinking = "", ""
        self._open.add(reply)
        try:
            for note in reply.begin.notes:
                self._note(note)
            for event in reply.events(Interruption(), lambda done, total: None):
                if self._ends:
                    break
                if isinstance(event, Prefill):
                    continue
                text += event.text
                thinking += event.thinking
                if isinstance(event, Finish):
                    stats = event.stats
                    found = BatchReply(text, thinking, stats.prompt_tokens, stats.generated_tokens, event.reason)
                    seed = reply.begin.params["seed"]
                    return ServedResult(found, seed if isinstance(seed, int) else None, event)
        finally:
            self._open.discard(reply)
            reply.close()
        return ServedResult(LlmcliError("The batch was interrupted."))

    def _note(self, note: str) -> None:
        if note not in self._told:
            self._told.add(note)
            self._tell(note)

    def _count(self, result: ServedResult, seconds: float) -> None:
        if result.finish is None:
            return
        stats, sums = result.finish.stats, self.stats
        sums.path, sums.peak_memory_bytes = stats.path, max(sums.peak_memory_bytes, stats.peak_memory_bytes)
        sums.replies += 1
        sums.prompt_tokens += stats.prompt_tokens
        sums.generated_tokens += stats.generated_tokens
        # Reading and writing are not told apart: several replies are at different places.
        sums.writing_s = seconds


def _is_done(future: Future[ServedResult], interruption: Interruption) -> bool:
    """Wait for a result; False if the batch is interrupted first."""
    with suppress(KeyboardInterrupt):
        while not future.done():
            with interruption.computing():
                wait([future], _LOOK_EVERY_S)
    return not interruption.requested
