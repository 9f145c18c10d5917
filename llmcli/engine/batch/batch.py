"""Many prompts, several replies at a time: each what it would be alone, in the order of the prompts."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcli.device import one_thread, peak_memory_bytes
from llmcli.engine.batch.backend import BatchBackend
from llmcli.engine.context_limit import allowed_context, check_prompt
from llmcli.engine.events import FinishReason
from llmcli.engine.interrupt import Interruption
from llmcli.engine.reply_text import ReplyText
from llmcli.engine.sampler import sampler_for
from llmcli.engine.sampling_params import SamplingParams
from llmcli.errors import LlmcliError, NotFiniteError
from llmcli.model import Transformer
from llmcli.model.finite import located
from llmcli.text.reasoning import ReplyStart, ThinkingSplitter
from llmcli.text.reply_start import reply_start
from llmcli.text.tokenizer import Tokenizer

# How far ahead of a reply that is not finished others may be begun, in texts of a pass: what is finished waits for it.
_AHEAD = 4


@dataclass(frozen=True)
class Request:
    """A prompt, and how it is to be answered."""

    ids: tuple[int, ...]
    params: SamplingParams
    thinks: bool = False
    """Whether thoughts are to be told from the answer."""
    start: ReplyStart | None = None
    """Where a reply that thinks begins; by default as the end of the prompt says."""


@dataclass(frozen=True)
class BatchReply:
    """What was said to it."""

    text: str
    thinking: str
    prompt_tokens: int
    generated_tokens: int
    reason: FinishReason


@dataclass
class BatchStats:
    """What replies have cost so far; `prompt_tokens` were read and `generated_tokens` written in so many seconds."""

    path: str
    replies: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    reading_s: float = 0.0
    writing_s: float = 0.0
    peak_memory_bytes: int = 0


class Batch:
    """Answers requests, as many at a time as there are `rows`; a new one begins as soon as another is over."""

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
        self._stop_ids, self._stop_texts = frozenset(stop_ids), tuple(stop_texts)
        self._context_length = allowed_context(model.config, context_length)
        self._vocab_size = min(tokenizer.vocab_size, model.config.vocab_size)
        self.stats = BatchStats(rows.path)

    @property
    def parallel(self) -> int:
        """How many replies are generated at the same time."""
        return self._rows.size

    def run(
        self, requests: Iterable[Request | LlmcliError], interruption: Interruption | None = None
    ) -> Iterator[BatchReply | LlmcliError]:
        """For each request its reply, or why there is none, in their order; an error among them passes through.

        Requests are taken as they are needed. When an interruption is requested, what is not finished is dropped.
        """
        interruption = interruption or Interruption()
        waiting = iter(requests)
        texts: dict[int, _GrowingReply] = {}
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
                    if isinstance(outcome, _GrowingReply):
                        texts[row] = outcome
                    else:
                        done[begun] = outcome
                    begun += 1
                if texts:
                    self._advance(texts, interruption)
                for row, text in list(texts.items()):
                    if text.over:
                        done[text.number] = self._finish(row, texts.pop(row))
                while given in done:
                    yield done.pop(given)
                    given += 1
                if interruption.requested:
                    break
        except KeyboardInterrupt:
            if not interruption.requested:
                raise
        # What was finished in the turn that was broken into.
        while given in done:
            yield done.pop(given)
            given += 1

    def _begin(
        self, row: int, number: int, request: Request | LlmcliError, interruption: Interruption
    ) -> _GrowingReply | BatchReply | LlmcliError:
        if isinstance(request, LlmcliError):
            return request
        try:
            check_prompt(request.ids, self._context_length)
        except LlmcliError as error:
            return error
        text = _GrowingReply(number, request, self._tokenizer, self._stop_ids, self._stop_texts, self._context_length)
        started = time.perf_counter()
        with interruption.computing():
            logits = self._read(row, text)
        with self._undisturbed():
            self._take(text, logits)
        self.stats.reading_s += time.perf_counter() - started
        self.stats.prompt_tokens += len(request.ids)
        return self._finish(row, text) if text.over else text

    def _advance(self, texts: dict[int, _GrowingReply], interruption: Interruption) -> None:
        """One more token for each text."""
        started = time.perf_counter()
        with interruption.computing():
            outgrown = [row for row, text in texts.items() if self._outgrew(text)]
            logits = {row: self._read(row, texts[row]) for row in outgrown}
            others = [row for row in texts if row not in logits]
            if others:
                logits |= zip(others, self._step(others, texts), strict=True)
        with self._undisturbed():
            for row, text in texts.items():
                self._take(text, logits[row])
        self.stats.writing_s += time.perf_counter() - started

    def _read(self, row: int, text: _GrowingReply) -> Tensor | NotFiniteError:
        """Logits (V,) after the text, or that they are not numbers: the other texts go on."""
        try:
            return self._rows.read(row, text.ids, text.expected)
        except NotFiniteError as error:
            return error

    def _step(self, rows: Sequence[int], texts: dict[int, _GrowingReply]) -> Iterable[Tensor | NotFiniteError]:
        """Logits (V,) after the next token of each text."""
        try:
            return self._rows.extend(rows, [texts[row].ids[-1] for row in rows])
        except NotFiniteError as error:
            # Passes over several texts are not checked, so the only one is to blame.
            return [error] * len(rows)

    def _take(self, text: _GrowingReply, logits: Tensor | NotFiniteError) -> None:
        text.take(logits if isinstance(logits, NotFiniteError) else logits[: self._vocab_size])
        if isinstance(text.error, NotFiniteError):
            device = self._model.device
            text.error = located(text.error, lambda part: self._model(torch.tensor([part], device=device)), text.ids)

    def _outgrew(self, text: _GrowingReply) -> bool:
        """Whether a text got longer than expected and is rotated in another way from here on: it is read anew, once."""
        if len(text.ids) <= text.expected or self._model.rotated_alike(text.expected, len(text.ids)):
            return False
        text.expected = self._context_length
        return True

    def _finish(self, row: int, text: _GrowingReply) -> BatchReply | LlmcliError:
        if text.error is not None:
            return text.error
        reply = text.reply()
        self.stats.replies += 1
        self.stats.generated_tokens += reply.generated_tokens
        self.stats.peak_memory_bytes = peak_memory_bytes(self._model.device)
        return reply

    def _undisturbed(self) -> AbstractContextManager[None]:
        """One thread for torch on a CPU: sampling is too little work for more."""
        return one_thread() if self._model.device.type == "cpu" else nullcontext()


class _GrowingReply:
    """One reply as it grows."""

    def __init__(
        self,
        number: int,
        request: Request,
        tokenizer: Tokenizer,
        stop_ids: Collection[int],
        stop_texts: Sequence[str],
        context_length: int,
    ) -> None:
        self.number = number
        self.ids = list(request.ids)
        self.expected = len(self.ids) + (request.params.max_tokens or 0)
        self.reason: FinishReason | None = None
        self.error: LlmcliError | None = None
        self._prompt_tokens = len(self.ids)
        self._stop_ids, self._context_length = stop_ids, context_length
        self._params = request.params
        self._sampler = sampler_for(request.params, tokenizer)
        start = (request.start or reply_start(tokenizer, request.ids)) if request.thinks else ReplyStart()
        self._text = ReplyText(tokenizer, request.params, stop_texts=stop_texts, start=start)
        self._splitter = ThinkingSplitter(tokenizer.thinking, start.state)
        self._splitter.push(start.prefill)
        self._said: list[str] = []

    @property
    def over(self) -> bool:
        """Nothing follows."""
        return self.reason is not None or self.error is not None

    def take(self, logits: Tensor | NotFiniteError) -> None:
        """Choose the token that follows, from logits (V,)."""
        try:
            if isinstance(logits, NotFiniteError):
                raise logits
            token = self._sampler.choose(logits, self.ids)
        except LlmcliError as error:
            # One text's numbers may break while those of others are sound.
            self.error = error
            return
        if token in self._stop_ids:
            self.reason = "stop"
            return
        self.ids.append(token)
        self._said.append(self._text.push(token))
        if self._text.stopped is not None:
            self.reason = self._text.stopped
        elif len(self.ids) - self._prompt_tokens == self._params.max_tokens:
            self.reason = "length"
        elif len(self.ids) == self._context_length:
            self.reason = "context"

    def reply(self) -> BatchReply:
        """What was said."""
        assert self.reason is not None
        thinking, answer = self._splitter.push("".join((*self._said, self._text.finish())))
        more_thinking, more = self._splitter.finish()
        generated = len(self.ids) - self._prompt_tokens
        return BatchReply(answer + more, thinking + more_thinking, self._prompt_tokens, generated, self.reason)
