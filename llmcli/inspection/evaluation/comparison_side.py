"""One of two models that are compared: its greedy continuation of a prompt, and its predictions along a text.

V is the size of the vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from llmcli.device import one_thread
from llmcli.engine import Event, SamplingParams, Step
from llmcli.inspection.core.tokens import Token, token, tokens
from llmcli.inspection.evaluation.perplexity import logits_along
from llmcli.loaded_model import LoadedModel

# Candidates kept for each step of a continuation, to look up the probability of the other model's token.
_CANDIDATES = 20

Tell: TypeAlias = Callable[[int, int], None]
"""Called with (tokens done, all tokens)."""


@dataclass(frozen=True)
class Expected:
    """One model's prediction at a position: the log-probability (nats) of the actual token, and its first choice."""

    logprob: float
    choice: Token
    choice_logprob: float


@dataclass(frozen=True)
class Continuation:
    """A model's greedy continuation of the prompt."""

    text: str
    tokens: tuple[Token, ...]
    ended: bool
    """The model generated a stop token."""


@dataclass(frozen=True)
class CandidateLogprob:
    """A token that a model could have chosen, and its log-probability (nats)."""

    id: int
    logprob: float


@dataclass(frozen=True)
class GreedyContinuation:
    """A continuation, and the most probable tokens at each of its steps."""

    continuation: Continuation
    candidates: tuple[tuple[CandidateLogprob, ...], ...]


@dataclass(frozen=True)
class SideFacts:
    """What is known of a model before it computes."""

    name: str
    context_length: int
    prompt: tuple[Token, ...]
    pieces: tuple[str, ...]
    """The vocabulary: the tokenizer's name of each token."""


class ComparisonSide(Protocol):
    """A model in this process or in another."""

    def begin(self, ids: Sequence[int] | None, max_tokens: int) -> SideFacts:
        """Prepare to continue the prompt `ids` by up to `max_tokens`; None is the prompt that it was made for."""

    def write(self, tell: Tell) -> GreedyContinuation:
        """Continue the prompt greedily."""

    def read(
        self, ids: Sequence[int], *, start: int, window: int | None, tell: Tell
    ) -> Iterator[tuple[Expected, Tensor]]:
        """The prediction of each of `ids` from number `start` on, and its log-probabilities: (V,), float32, on the CPU.

        A text longer than `window` tokens is read in windows, as `score` does.
        """

    @property
    def path(self) -> str:
        """The name of the step that has read the text, for display."""

    def close(self) -> None:
        """End what it computes."""


class LocalComparison:
    """A model in this process."""

    def __init__(
        self,
        loaded: LoadedModel,
        prompt: Callable[[LoadedModel], Sequence[int]] = lambda loaded: (),
        *,
        readable: bool = False,
    ) -> None:
        """`prompt` encodes its prompt. The text is read by the fast path, or with `readable` by the readable model."""
        self._loaded, self._prompt = loaded, prompt
        self._cache = loaded.prefix_cache(readable=readable)
        self._ids: list[int] = []
        self._max_tokens = 0

    def begin(self, ids: Sequence[int] | None, max_tokens: int) -> SideFacts:
        """See `ComparisonSide`."""
        self._ids = list(self._prompt(self._loaded) if ids is None else ids)
        self._max_tokens = max_tokens
        return begun(self._loaded, self._ids)

    def write(self, tell: Tell) -> GreedyContinuation:
        """See `ComparisonSide`."""
        parts = written(self._loaded, self._ids, self._max_tokens, tell)
        try:
            while True:
                next(parts)
        except StopIteration as end:
            result: GreedyContinuation = end.value
            return result

    def read(
        self, ids: Sequence[int], *, start: int, window: int | None, tell: Tell
    ) -> Iterator[tuple[Expected, Tensor]]:
        """See `ComparisonSide`."""
        for index, logits in logits_along(self._loaded, ids, window=window, prefix_cache=self._cache):
            if index >= start:
                # Operations on one row are short: waking torch's other threads would take longer.
                with one_thread():
                    logprobs = logits.float().log_softmax(-1).cpu()
                    expected = _expected(self._loaded, logprobs, ids[index])
                yield expected, logprobs
            tell(index + 1, len(ids))

    @property
    def path(self) -> str:
        """See `ComparisonSide`."""
        return self._cache.path()

    def close(self) -> None:
        """See `ComparisonSide`."""


def begun(loaded: LoadedModel, ids: Sequence[int]) -> SideFacts:
    """What is known of a model before it continues `ids`."""
    tokenizer = loaded.tokenizer
    pieces = tuple(tokenizer.piece(number) for number in range(tokenizer.vocab_size))
    return SideFacts(loaded.name, loaded.config.context_length, tokens(tokenizer, ids), pieces)


def written(
    loaded: LoadedModel, ids: Sequence[int], max_tokens: int, tell: Tell
) -> Generator[None, None, GreedyContinuation]:
    """Continue `ids` greedily by up to `max_tokens`, and return the continuation; yields after each token.

    A prompt that leaves no room is continued from its end.
    """
    greedy = SamplingParams(temperature=0, max_tokens=max_tokens)
    if len(ids) + max_tokens > loaded.config.context_length:
        ids = ids[-max(1, loaded.config.context_length // 2) :]
    steps: list[Step] = []
    finish: Event | None = None
    tell(0, max_tokens)
    for finish in loaded.engine().stream(ids, greedy, top=_CANDIDATES):
        if isinstance(finish, Step):
            steps.append(finish)
            tell(len(steps), max_tokens)
            yield
    tell(max_tokens, max_tokens)
    continued = tokens(loaded.tokenizer, (step.id for step in steps))
    text = loaded.tokenizer.decode(step.id for step in steps)
    return GreedyContinuation(
        Continuation(text, continued, getattr(finish, "reason", "") == "stop"),
        tuple(tuple(CandidateLogprob(each.id, each.logprob) for each in step.top) for step in steps),
    )


def row_bytes(row: Tensor) -> bytes:
    """The memory of a contiguous row of float32 on the CPU."""
    return ctypes.string_at(row.data_ptr(), row.nbytes)


def row_from_bytes(data: bytes) -> Tensor:
    """The inverse of `row_bytes`."""
    return torch.frombuffer(bytearray(data), dtype=torch.float32)


def _expected(loaded: LoadedModel, logprobs: Tensor, came: int) -> Expected:
    best = int(logprobs.argmax())
    return Expected(float(logprobs[came]), token(loaded.tokenizer, best), float(logprobs[best]))
