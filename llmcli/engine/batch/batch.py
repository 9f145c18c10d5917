"""Batched decoding: several replies at a time, each equal to the engine's, in the order of the prompts."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from llmcli.device import one_thread, peak_memory_bytes
from llmcli.engine.batch.backend import BatchBackend
from llmcli.engine.batch.results import BatchReply, BatchStats
from llmcli.engine.batch.row_steps import RowText
from llmcli.engine.context_limit import allowed_context, check_prompt
from llmcli.engine.interrupt import Interruption
from llmcli.engine.reply.thinking import ThinkingApart
from llmcli.engine.reply_builder import ReplyBuilder, StopRules
from llmcli.engine.sampling.params import SamplingParams
from llmcli.engine.sampling.sampler import check_chosen, sampler_for
from llmcli.errors import LlmcliError, NotFiniteError
from llmcli.model import KVCache, Transformer
from llmcli.text.reasoning import ReplyStart
from llmcli.text.reply_start import reply_start
from llmcli.text.tokenizer import Tokenizer

# How many later replies may finish and wait in memory for an earlier one, as a multiple of the rows.
_AHEAD = 4
_Found: TypeAlias = "list[int] | Tensor | NotFiniteError"
"""Of a text: its next tokens, logits (V,) after it, or the error that these are not finite."""


@dataclass(frozen=True)
class Request:
    """A prompt and the settings of its reply."""

    ids: tuple[int, ...]
    params: SamplingParams
    thinks: bool = False
    """Whether thoughts are separated from the answer."""
    start: ReplyStart | None = None
    """Where a reply with thoughts begins; by default read from the end of the prompt."""


class Batch:
    """Answers requests, as many at a time as `rows` has; when one is complete, the next takes its row."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        rows: BatchBackend,
        *,
        stop_ids: Collection[int] = (),
        stop_texts: Sequence[str] = (),
        context_length: int | None = None,
    ) -> None:
        """`stop_ids` and `stop_texts` are as for an engine.

        `context_length` limits prompt and reply together, in tokens; by default it is what the model was made for.

        Raises:
            UsageError: `context_length` is more than the model was made for.
        """
        self._model, self._tokenizer, self._rows = model, tokenizer, rows
        self._context_length = allowed_context(model.config, context_length)
        self._vocab_size = min(tokenizer.vocab_size, model.config.vocab_size)
        self._rules = StopRules.of(stop_ids, stop_texts, self._context_length, self._vocab_size)
        self._steps = rows.steps(self._vocab_size)
        self.stats = BatchStats(rows.path)

    @property
    def parallel(self) -> int:
        """How many replies are generated at the same time."""
        return self._rows.size

    def run(
        self,
        requests: Iterable[Request | LlmcliError],
        interruption: Interruption | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[BatchReply | LlmcliError]:
        """The reply to each request, or its error, in order; an error among the requests is passed through.

        Requests are consumed as needed. When an interruption is requested, unfinished replies are dropped. `progress`
        is called after each pass with (requests that are done, tokens of the unfinished replies).
        """
        interruption = interruption or Interruption()
        waiting = iter(requests)
        texts: dict[int, _Row] = {}
        done: dict[int, BatchReply | LlmcliError] = {}
        begun = given = 0
        more = True
        try:
            while more or texts:
                while more and len(texts) < self._rows.size and begun - given < _AHEAD * self._rows.size:
                    request = next(waiting, None)
                    if request is None:
                        more = False
                        break
                    row = next(row for row in range(self._rows.size) if row not in texts)
                    outcome = self._begin(row, begun, request, interruption)
                    if isinstance(outcome, _Row):
                        texts[row] = outcome
                    else:
                        done[begun] = outcome
                    begun += 1
                if texts:
                    self._advance(texts, interruption)
                for row, text in list(texts.items()):
                    if text.is_over:
                        done[text.number] = self._finish(texts.pop(row))
                if progress is not None:
                    progress(begun - len(texts), sum(text.builder.generated_tokens for text in texts.values()))
                while given in done:
                    yield done.pop(given)
                    given += 1
                if interruption.requested:
                    break
        except KeyboardInterrupt:
            if not interruption.requested:
                raise
        # Replies that the interrupted pass had completed.
        while given in done:
            yield done.pop(given)
            given += 1

    def _begin(
        self, row: int, number: int, request: Request | LlmcliError, interruption: Interruption
    ) -> _Row | BatchReply | LlmcliError:
        if isinstance(request, LlmcliError):
            return request
        try:
            check_prompt(request.ids, self._context_length)
        except LlmcliError as error:
            return error
        text = _Row(number, request, self._tokenizer, self._rules)
        started = time.perf_counter()
        with interruption.computing():
            logits = self._read(row, text)
        with self._sampling_threads():
            self._take(text, logits)
        self.stats.reading_s += time.perf_counter() - started
        self.stats.prompt_tokens += len(request.ids)
        return self._finish(text) if text.is_over else text

    def _advance(self, texts: dict[int, _Row], interruption: Interruption) -> None:
        """Choose one or a few more tokens for each text."""
        started = time.perf_counter()
        with interruption.computing():
            found = self._next(texts)
        with self._sampling_threads():
            for text, each in zip(texts.values(), found, strict=True):
                self._take(text, each)
        self.stats.writing_s += time.perf_counter() - started

    def _read(self, row: int, text: _Row) -> Tensor | NotFiniteError:
        """Logits (V,) after the text, or the error that they are not finite: the other texts continue."""
        try:
            return self._rows.read(row, text.ids, text.builder.longest)
        except NotFiniteError as error:
            return error

    def _next(self, texts: dict[int, _Row]) -> Sequence[_Found]:
        """The next tokens of each text, or logits (V,) to choose one from."""
        try:
            return self._steps.next([text.row_text(self._rows.cache(row)) for row, text in texts.items()])
        except NotFiniteError as error:
            # Only a pass of a single text is checked.
            return [error] * len(texts)

    def _take(self, text: _Row, found: _Found) -> None:
        text.take(found[: self._vocab_size] if isinstance(found, Tensor) else found)
        if isinstance(text.error, NotFiniteError):
            text.error = self._model.located(text.error, text.ids)

    def _finish(self, text: _Row) -> BatchReply | LlmcliError:
        if text.error is not None:
            return text.error
        reply = text.reply()
        self.stats.replies += 1
        self.stats.generated_tokens += reply.generated_tokens
        self.stats.peak_memory_bytes = peak_memory_bytes(self._model.device)
        return reply

    def _sampling_threads(self) -> AbstractContextManager[None]:
        """One thread for torch on a CPU: sampling is too little work to wake more."""
        return one_thread() if self._model.device.type == "cpu" else nullcontext()


class _Row:
    """One request and its unfinished reply."""

    def __init__(self, number: int, request: Request, tokenizer: Tokenizer, rules: StopRules) -> None:
        self.number = number
        start = (request.start or reply_start(tokenizer, request.ids)) if request.thinks else ReplyStart()
        self.builder = ReplyBuilder(tokenizer, request.ids, request.params, rules, start=start)
        self.error: LlmcliError | None = None
        self._sampler, self._stop_ids = sampler_for(request.params, tokenizer), rules.ids
        self._apart = ThinkingApart(tokenizer, start)
        self._text = self._thinking = ""

    @property
    def ids(self) -> list[int]:
        """Prompt and reply."""
        return self.builder.ids

    @property
    def is_over(self) -> bool:
        """Whether the reply is complete or has failed."""
        return self.builder.reason is not None or self.error is not None

    def row_text(self, cache: KVCache) -> RowText:
        """What a pass needs to know of it."""
        return RowText(self.ids, cache, self._sampler, self.builder.longest, self._stop_ids)

    def take(self, found: _Found) -> None:
        """Take the next tokens, or choose one from logits (V,)."""
        try:
            if isinstance(found, NotFiniteError):
                raise found
            tokens = found if isinstance(found, list) else [self._sampler.choose(found, self.ids)]
            for token in tokens:
                if self.builder.reason is None:
                    self._split(self.builder.push(check_chosen(token)) or "")
        except LlmcliError as error:
            # Only this text fails: the logits of the others may be finite.
            self.error = error

    def reply(self) -> BatchReply:
        """The complete reply."""
        builder = self.builder
        assert builder.reason is not None
        self._split(builder.finish())
        thinking, text = self._apart.finish()
        return BatchReply(
            self._text + text,
            self._thinking + thinking,
            builder.prompt_tokens,
            builder.generated_tokens,
            builder.reason,
        )

    def _split(self, text: str) -> None:
        thinking, answer = self._apart.push(text)
        self._thinking, self._text = self._thinking + thinking, self._text + answer
