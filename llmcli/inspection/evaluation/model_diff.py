"""Compare two models on one text: the KL divergence of their distributions per token, and their greedy continuations.

The models need not be in memory together: the first model's log-probabilities are kept in a temporary file (4 bytes
times tokens times vocabulary) while the second model runs. V is the size of the vocabulary.
"""

from __future__ import annotations

import ctypes
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import IO, TypeAlias

import torch
from torch import Tensor

from llmcli.device import one_thread
from llmcli.engine import Event, SamplingParams, Step
from llmcli.errors import UsageError
from llmcli.inspection.core.distributions import change, kl_divergence, perplexity
from llmcli.inspection.core.tokens import Token, token
from llmcli.inspection.evaluation.perplexity import logits_along
from llmcli.loaded_model import LoadedModel

# Candidates kept for each step of a continuation, to look up the probability of the other model's token.
_CANDIDATES = 20

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with (description, tokens done, all tokens)."""


@dataclass(frozen=True)
class Expected:
    """One model's prediction at a position: the log-probability (nats) of the actual token, and its first choice."""

    logprob: float
    choice: Token
    choice_logprob: float


@dataclass(frozen=True)
class ComparedToken:
    """A token of the text. The predictions are None if it has no token before it or was not compared."""

    index: int
    id: int
    text: str
    bytes: bytes
    kl: float | None = None
    """KL(first || second) of their distributions at this position, in nats."""
    first: Expected | None = None
    second: Expected | None = None


@dataclass(frozen=True)
class Continuation:
    """A model's greedy continuation of the prompt."""

    text: str
    tokens: tuple[Token, ...]
    ended: bool
    """The model generated a stop token."""


@dataclass(frozen=True)
class Parting:
    """The first token in which the continuations differ; None if one has ended there."""

    index: int
    first: Token | None
    second: Token | None
    first_gap: float | None
    """In the first model, log-probability of its token minus that of the other model's, in nats. None if the
    other's token is not among its 20 best, or one of them ended."""
    second_gap: float | None


@dataclass(frozen=True)
class Comparison:
    """Two models on one text."""

    models: tuple[str, str]
    tokens: tuple[ComparedToken, ...]
    compared: int
    """Number of compared tokens."""
    mean_kl: float
    largest_kl: float
    agreement: float
    """Share of compared tokens for which both models have the same first choice, 0 to 1."""
    perplexities: tuple[float, float]
    continuations: tuple[Continuation, Continuation]
    parting: Parting | None
    """None if the continuations are equal."""
    paths: tuple[str, str]
    """The implementation that ran each model."""


def compare(
    first: Callable[[], LoadedModel],
    second: Callable[[], LoadedModel],
    prompt: Callable[[LoadedModel], Sequence[int]],
    *,
    reply: bool,
    max_tokens: int = 64,
    names: tuple[str, str] | None = None,
    readable: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Compare two models; the first is released before the second is loaded.

    `prompt` encodes the text with the first model's tokenizer. The models are compared on that text, or with `reply`
    on the first model's reply to it. Both models continue the text by up to `max_tokens`. A text longer than the
    context of either model is read in windows, as `score` does, and continued from its end. `names` replaces the
    models' names in the result. The text is read by the fast paths, or with `readable` by the readable models.

    Raises:
        UsageError: the models do not have the same tokenizer, or there is nothing to compare.
    """
    tell = progress or (lambda what, done, total: None)
    with _RowFile() as kept:
        loaded = first()
        ids = list(prompt(loaded))
        said, first_steps = _continuation(loaded, ids, max_tokens, partial(tell, "The first model writes"))
        text = [*ids, *(token.id for token in said.tokens)] if reply else ids
        start = len(ids) if reply else 1
        if len(text) <= start:
            raise UsageError("There is nothing to compare: the text has no second token, or the reply is empty.")
        tokenizer, name, window = loaded.tokenizer, loaded.name, loaded.config.context_length
        pieces = [tokenizer.piece(number) for number in range(tokenizer.vocab_size)]
        before: list[Expected] = []
        prefix_cache = loaded.prefix_cache(readable=readable)
        first_path = prefix_cache.path()
        for index, logits in logits_along(loaded, text, prefix_cache=prefix_cache):
            if index >= start:
                with one_thread():
                    logprobs = logits.float().log_softmax(-1)
                    kept.write(logprobs)
                    before.append(_expected(loaded, logprobs, text[index]))
            tell("The first model reads", index + 1, len(text))
        del loaded, prefix_cache, logits
        loaded = second()
        _check_same(pieces, loaded)
        also, second_steps = _continuation(loaded, ids, max_tokens, partial(tell, "The second model writes"))
        after: list[Expected] = []
        divergences: list[float] = []
        prefix_cache = loaded.prefix_cache(readable=readable)
        shorter = min(window, loaded.config.context_length)
        for index, logits in logits_along(loaded, text, window=shorter, prefix_cache=prefix_cache):
            if index >= start:
                with one_thread():
                    logprobs = logits.float().log_softmax(-1)
                    of_first = kept.read().to(logprobs.device)
                    divergences.append(float(kl_divergence(of_first.double(), logprobs.double())))
                    after.append(_expected(loaded, logprobs, text[index]))
            tell("The second model reads", index + 1, len(text))
    pairs = list(zip(divergences, before, after, strict=True))
    tokens = [
        ComparedToken(
            index,
            number,
            tokenizer.token_text(number),
            tokenizer.token_bytes(number),
            *(pairs[index - start] if index >= start else ()),
        )
        for index, number in enumerate(text)
    ]
    return Comparison(
        models=names or (name, loaded.name),
        tokens=tuple(tokens),
        compared=len(pairs),
        mean_kl=math.fsum(divergences) / len(pairs),
        largest_kl=max(divergences),
        agreement=sum(a.choice.id == b.choice.id for _, a, b in pairs) / len(pairs),
        perplexities=(_perplexity(before), _perplexity(after)),
        continuations=(said, also),
        parting=_parting(said, also, first_steps, second_steps),
        paths=(first_path, prefix_cache.path()),
    )


def _expected(loaded: LoadedModel, logprobs: Tensor, came: int) -> Expected:
    best = int(logprobs.argmax())
    return Expected(float(logprobs[came]), token(loaded.tokenizer, best), float(logprobs[best]))


def _perplexity(expected: Sequence[Expected]) -> float:
    return perplexity([each.logprob for each in expected])


def _continuation(
    loaded: LoadedModel, ids: Sequence[int], max_tokens: int, tell: Callable[[int, int], None]
) -> tuple[Continuation, list[Step]]:
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
    tell(max_tokens, max_tokens)
    tokens = tuple(token(loaded.tokenizer, step.id) for step in steps)
    text = loaded.tokenizer.decode(step.id for step in steps)
    return Continuation(text, tokens, getattr(finish, "reason", "") == "stop"), steps


def _parting(
    first: Continuation, second: Continuation, first_steps: Sequence[Step], second_steps: Sequence[Step]
) -> Parting | None:
    length = min(len(first.tokens), len(second.tokens))
    same = next((at for at in range(length) if first.tokens[at].id != second.tokens[at].id), length)
    own, other = (said.tokens[same] if same < len(said.tokens) else None for said in (first, second))
    if own is None and other is None:
        return None

    def gap(steps: Sequence[Step], own: Token | None, other: Token | None) -> float | None:
        if own is None or other is None:
            return None
        known = {candidate.id: candidate.logprob for candidate in steps[same].top}
        return change(known[other.id], known[own.id]) if other.id in known else None

    return Parting(same, own, other, gap(first_steps, own, other), gap(second_steps, other, own))


def _check_same(pieces: Sequence[str], loaded: LoadedModel) -> None:
    other = [loaded.tokenizer.piece(number) for number in range(loaded.tokenizer.vocab_size)]
    if pieces == other:
        return
    place = next((at for at, pair in enumerate(zip(pieces, other, strict=False)) if len(set(pair)) > 1), None)
    what = (
        f"one has {len(pieces)} tokens and the other {len(other)}"
        if place is None
        else f"token {place} is {pieces[place]!r} in one and {other[place]!r} in the other"
    )
    raise UsageError(f"The models do not have the same tokenizer ({what}), so they cannot be compared token by token.")


@dataclass
class _RowFile:
    """Rows of float32 in a temporary file, read back in the order they were written."""

    _file: IO[bytes] = field(default_factory=tempfile.TemporaryFile)
    _row_bytes: int = 0
    _reading: bool = False

    def __enter__(self) -> _RowFile:
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def write(self, row: Tensor) -> None:
        row = row.cpu().contiguous()
        self._row_bytes = row.nbytes
        self._file.write(ctypes.string_at(row.data_ptr(), row.nbytes))

    def read(self) -> Tensor:
        if not self._reading:
            self._file.seek(0)
            self._reading = True
        return torch.frombuffer(bytearray(self._file.read(self._row_bytes)), dtype=torch.float32)
