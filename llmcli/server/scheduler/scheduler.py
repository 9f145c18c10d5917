"""The scheduler: reads prompts and writes replies of all connections, as many at a time as the kernel has rows.

Each turn of its loop admits waiting work to free rows, reads chunks of prompts, and chooses a few tokens for every
reply that is being written, each for about a thirtieth of a second. So a long prompt delays the others by a chunk, and
a reply joins and leaves between tokens. Each row has the bits of a reply computed alone, whatever the others are
(`FastStep.forward_rows`).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcli.device import one_thread
from llmcli.engine.batch.backend import MOST_ROWS
from llmcli.engine.batch.row_steps import RowSteps
from llmcli.engine.context_limit import allowed_context
from llmcli.engine.decoders.multi_step import MULTI_STEP_S
from llmcli.engine.events import FinishReason
from llmcli.engine.reply_builder import StopRules
from llmcli.errors import LlmcliError, NotFiniteError
from llmcli.kernels.base import FastStep
from llmcli.loaded_model import LoadedModel
from llmcli.server.metrics import ReplyCounts
from llmcli.server.scheduler.chat_engines import ChatEngines
from llmcli.server.scheduler.kept_caches import KeptCaches
from llmcli.server.scheduler.reply_row import ReplyRow
from llmcli.server.scheduler.work import Computation, Failed, OverloadedError, ReplyWork, Result, Work


@dataclass(frozen=True)
class WorkLimits:
    """How much the scheduler takes."""

    context: int | None = None
    """The most tokens of prompt and reply together; None: what the model was made for."""
    rows: int | None = None
    """Replies written at the same time; None: as many as the kernel can."""
    waiting: int = 64
    """The most requests that wait for a row."""
    cache_bytes: int = 1 << 30
    """Memory for the caches of texts that are complete."""


class Scheduler:
    """Computes in the thread that calls `run`; the other methods may be called from any thread."""

    def __init__(self, loaded: LoadedModel, step: FastStep, limits: WorkLimits | None = None) -> None:
        """Raise `UsageError` for a context that the model was not made for."""
        limits = limits or WorkLimits()
        self.loaded, self._step, self._limits = loaded, step, limits
        self.context_length = allowed_context(loaded.config, limits.context)
        self._vocab_size = min(loaded.tokenizer.vocab_size, loaded.config.vocab_size)
        self.rows = min(limits.rows or MOST_ROWS, step.capabilities.most_rows)
        """Replies written at the same time."""
        self._steps = RowSteps(loaded.model, step, self._vocab_size)
        unit = step.capabilities.prefill_tile or step.prefill_chunk
        self.kept = KeptCaches(loaded.model, unit, limits.cache_bytes)
        self.counts = ReplyCounts()
        self.chats = ChatEngines(loaded, step, self.counts)
        self._changed = threading.Condition()
        self._waiting: deque[Work] = deque()
        self._reading: deque[tuple[ReplyRow, Iterator[Tensor | None]]] = deque()
        self._computing: deque[Computation] = deque()
        self._writing: list[ReplyRow] = []
        self._closing = False
        self.last_active = time.monotonic()
        """When there was last something to do."""

    # Called from other threads.

    def submit(self, work: Work) -> None:
        """Queue `work`.

        Raises:
            OverloadedError: too much is waiting, or the server is about to end.
        """
        with self._changed:
            if self._closing:
                raise OverloadedError("The server is about to end.")
            if len(self._waiting) >= self._limits.waiting:
                raise OverloadedError(f"{len(self._waiting)} requests are waiting already; try again later.")
            self._waiting.append(work)
            self.last_active = time.monotonic()
            self._changed.notify()

    def close(self) -> None:
        """Take no more work; `run` returns once what was taken is done."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def wake(self) -> None:
        """A computation that waited for its client may have room now."""
        with self._changed:
            self._changed.notify()

    @property
    def path(self) -> str:
        """The name of the step that computes."""
        return self._step.name

    def load(self) -> Mapping[str, int]:
        """How many requests are being computed and how many wait."""
        running = len(self._writing) + len(self._reading) + len(self._computing)
        return {"running": running, "waiting": len(self._waiting)}

    # Called in the thread that computes.

    def run(self, idle: Callable[[float], bool] = lambda seconds: False, *, look_every_s: float = 1.0) -> None:
        """Compute until `close` was called and all work is done, or `idle` returns true.

        `idle` is called with the seconds since there was last something to do, every `look_every_s` seconds.
        """
        while True:
            with self._changed:
                while not self._is_busy:
                    # A computation that waits for its client is not complete.
                    if not self._computing and (self._closing or idle(time.monotonic() - self.last_active)):
                        self._closing = True
                        return
                    self._changed.wait(look_every_s)
            self._turn()
            self.last_active = time.monotonic()

    @property
    def _is_busy(self) -> bool:
        return bool(self._waiting or self._reading or self._is_computing or self._writing)

    @property
    def _is_computing(self) -> bool:
        """Whether a computation has a part to compute now."""
        return any(computation.can_continue for computation in self._computing)

    def _turn(self) -> None:
        self._drop_cancelled()
        self._admit()
        ready = next((each for each in self._computing if each.can_continue), None)
        if ready is not None:
            self._computing.remove(ready)
            self._advance(ready)
        self._read_some()
        if self._writing:
            self._write()

    def _drop_cancelled(self) -> None:
        with self._changed:
            for work in [work for work in self._waiting if work.cancelled]:
                self._waiting.remove(work)
        for row in [row for row in self._writing if row.work.cancelled]:
            self._end(row, "interrupted")
        for row, _ in [pair for pair in self._reading if pair[0].work.cancelled]:
            self._end(row, "interrupted")
        for computation in [each for each in self._computing if each.cancelled and not each.ends_itself]:
            self._computing.remove(computation)

    def _admit(self) -> None:
        while self._waiting and len(self._writing) + len(self._reading) < self.rows:
            with self._changed:
                work = self._waiting.popleft()
            if isinstance(work, Computation):
                self._computing.append(work)
                continue
            assert isinstance(work, ReplyWork)
            try:
                row = ReplyRow(work, self.loaded, self._rules(work), self.kept)
            except LlmcliError as error:
                work.deliver([Failed(error)])
                continue
            self._reading.append((row, row.read(self._step)))

    def _rules(self, work: ReplyWork) -> StopRules:
        request, loaded = work.request, self.loaded
        ids: set[int] = set(request.ends)
        if not request.ignores_end:
            ids.update(loaded.stop_ids if request.is_chat else loaded.declared_stop_ids)
        texts = loaded.turn_end.texts if request.is_chat and not request.ignores_end else ()
        context = min(request.context or self.context_length, self.context_length)
        return StopRules.of(ids, texts, context, self._vocab_size)

    def _advance(self, computation: Computation) -> None:
        """One part of a computation; the next turn has a part of another."""
        try:
            next(computation.parts)
        except StopIteration as end:
            computation.deliver([Result(end.value)])
        except Exception as error:
            computation.deliver([Failed(error)])
        else:
            self._computing.append(computation)

    def _read_some(self) -> None:
        """Read prompts about as long as replies are written between: a prompt costs as much as many tokens."""
        end = time.perf_counter() + MULTI_STEP_S
        while self._reading:
            self._read(*self._reading.popleft())
            if time.perf_counter() >= end:
                return

    def _read(self, row: ReplyRow, chunks: Iterator[Tensor | None]) -> None:
        """One chunk of a prompt; the next turn reads one of another."""
        try:
            with torch.inference_mode():
                logits = next(chunks)
        except Exception as error:
            self._fail(row, error)
            return
        if logits is None:
            self._reading.append((row, chunks))
            return
        if not row.work.request.writes:
            self._end(row, "stop")
            return
        self._writing.append(row)
        with self._sampling_threads():
            self._take(row, logits)

    def _write(self) -> None:
        """Choose one or a few more tokens for each reply."""
        rows = self._writing[:]
        texts = [row.row_text() for row in rows]
        try:
            # Computations have a part each turn.
            found = self._steps.next(texts, 1) if self._is_computing else self._steps.next(texts)
        except NotFiniteError as error:
            for row in rows:
                self._fail(row, self.loaded.model.located(error, row.ids))
            return
        except Exception as error:
            for row in rows:
                self._fail(row, error)
            return
        with self._sampling_threads():
            for row, each in zip(rows, found, strict=True):
                self._take(row, each)

    def _take(self, row: ReplyRow, found: list[int] | Tensor) -> None:
        """The next tokens of one reply, or logits (V,); only this reply fails if none can be chosen."""
        try:
            events = row.take_tokens(found) if isinstance(found, list) else row.take(found[: self._vocab_size])
        except NotFiniteError as error:
            self._fail(row, self.loaded.model.located(error, row.ids))
            return
        except Exception as error:
            self._fail(row, error)
            return
        if events:
            row.work.deliver(events)
        if row.builder.reason is not None:
            self._end(row)

    def _end(self, row: ReplyRow, reason: FinishReason | None = None) -> None:
        self._remove(row)
        finish = row.finish(self._step.name, reason)
        self.counts.add(finish.stats)
        row.work.deliver([finish])

    def _fail(self, row: ReplyRow, error: Exception) -> None:
        self._remove(row)
        row.work.deliver([Failed(error)])

    def _remove(self, row: ReplyRow) -> None:
        if row in self._writing:
            # The last one takes its place, since a kernel keeps the addresses of each place's cache.
            last = self._writing.pop()
            if last is not row:
                self._writing[self._writing.index(row)] = last
        self._reading = deque(pair for pair in self._reading if pair[0] is not row)
        row.release()

    def _sampling_threads(self) -> AbstractContextManager[None]:
        """One thread for torch where a kernel makes the passes: sampling is too little work to wake more."""
        return nullcontext() if self._step.capabilities.is_readable else one_thread()
