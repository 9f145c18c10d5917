"""The scheduler: reads prompts and writes replies of all connections, as many at a time as the kernel has rows.

Each turn of its loop admits waiting work to free rows, reads one chunk of one prompt, and chooses one token for every
reply that is being written. So a long prompt delays the others by a chunk, and a reply joins and leaves between tokens.
Each row has the bits of a reply computed alone (`FastStep.forward_rows`), whatever the others are.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcli.device import one_thread
from llmcli.engine.batch.backend import MOST_ROWS
from llmcli.engine.context_limit import allowed_context, memory_for_text
from llmcli.engine.decoders.multi_step import MULTI_STEP_S
from llmcli.engine.events import Event, FinishReason
from llmcli.engine.reply_builder import StopRules
from llmcli.engine.sampling.sampler import check_chosen
from llmcli.errors import LlmcliError, NotFiniteError
from llmcli.kernels.base import FastStep
from llmcli.kernels.sampling_filters import SamplingRequest
from llmcli.loaded_model import LoadedModel
from llmcli.server.metrics import ReplyCounts
from llmcli.server.scheduler.chat_engines import ChatEngines
from llmcli.server.scheduler.kept_caches import KeptCaches
from llmcli.server.scheduler.reply_row import ReplyRow
from llmcli.server.scheduler.work import Computation, Failed, OverloadedError, ReplyWork, Result, Work

# Tokens to reserve ahead in a cache: reserving costs as much time as several tokens.
_RESERVED_AHEAD = 256
# The most tokens that a kernel chooses by itself for one reply.
_MOST_AT_ONCE = 8


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
        self._at_once = 1
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
                    if self._closing or idle(time.monotonic() - self.last_active):
                        self._closing = True
                        return
                    self._changed.wait(look_every_s)
            self._turn()
            self.last_active = time.monotonic()

    @property
    def _is_busy(self) -> bool:
        return bool(self._waiting or self._reading or self._computing or self._writing)

    def _turn(self) -> None:
        self._drop_cancelled()
        self._admit()
        if self._computing:
            self._advance(self._computing.popleft())
        if self._reading:
            self._read(*self._reading.popleft())
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
        """Choose one more token for each reply."""
        rows = self._writing[:]
        if len(rows) == 1 and self._can_multi_step(rows[0]):
            self._write_alone(rows[0])
            return
        try:
            logits = self._logits(rows)
        except Exception as error:
            for row in rows:
                self._fail(row, error)
            return
        with self._sampling_threads():
            for row, each in zip(rows, logits, strict=True):
                self._take(row, each)

    def _can_multi_step(self, row: ReplyRow) -> bool:
        """Whether the kernel can choose a few tokens of the only reply by itself, while nothing else waits."""
        others = self._waiting or self._reading or self._computing
        return not others and not row.wants_logits and self._step.capabilities.chooses(row.sampler.params)

    def _write_alone(self, row: ReplyRow) -> None:
        """Choose a few tokens for the only reply, as many as the kernel computes before new work would wait long."""
        started = time.perf_counter()
        try:
            chosen = self._multi_step(row, min(self._at_once, row.builder.longest - len(row.ids)))
            for token in chosen:
                if row.builder.reason is None:
                    row.work.deliver(row.take_token(check_chosen(token)))
        except NotFiniteError as error:
            self._fail(row, self.loaded.model.located(error, row.ids))
            return
        except Exception as error:
            self._fail(row, error)
            return
        each = (time.perf_counter() - started) / len(chosen)
        self._at_once = max(1, min(_MOST_AT_ONCE, int(MULTI_STEP_S / each)))
        if row.builder.reason is not None:
            self._end(row)

    @torch.inference_mode()
    def _multi_step(self, row: ReplyRow, count: int) -> list[int]:
        """The next tokens of a row, at most `count`; -1 stands for logits that are not finite."""
        assert row.text is not None
        length = len(row.ids) + count - 1
        uniforms = row.sampler.uniforms(count)
        with memory_for_text(self.loaded.model, length):
            row.text.cache.reserve(max(length, min(row.builder.longest, length + _RESERVED_AHEAD)))
            request = SamplingRequest(row.sampler.params, uniforms, self._vocab_size, tuple(row.stop_ids))
            chosen = self._step.forward_multi_step(row.ids[-1], row.text.cache, request)
        row.sampler.give_back(uniforms[len(chosen) :])
        return chosen

    @torch.inference_mode()
    def _logits(self, rows: Sequence[ReplyRow]) -> Tensor:
        """Logits (R, V) after the last token of each row, which is read."""
        caches = [row.text.cache for row in rows if row.text is not None]
        longest = max(len(row.ids) for row in rows)
        with memory_for_text(self.loaded.model, longest):
            for row, cache in zip(rows, caches, strict=True):
                cache.reserve(max(len(row.ids), min(row.builder.longest, len(row.ids) + _RESERVED_AHEAD)))
            last = [row.ids[-1] for row in rows]
            if len(rows) == 1:
                return self._step.forward(last, caches[0])
            # Torch does little in such a pass, and its threads would compete with those of the kernel.
            with one_thread():
                return self._step.forward_rows(last, caches)

    def _take(self, row: ReplyRow, logits: Tensor) -> None:
        """Choose a token of one reply from logits (V,); only this reply fails if it cannot be chosen."""
        try:
            events: list[Event] = row.take(logits[: self._vocab_size])
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
        self._writing = [each for each in self._writing if each is not row]
        self._reading = deque(pair for pair in self._reading if pair[0] is not row)
        row.release()

    def _sampling_threads(self) -> AbstractContextManager[None]:
        """One thread for torch where a kernel makes the passes: sampling is too little work to wake more."""
        return nullcontext() if self._step.capabilities.is_readable else one_thread()
