"""Two models on one text: how far apart what they expect is, token by token, and where they would say other things.

The models need not be in memory together: what the first expects of every token is kept in a temporary file, of as many
bytes as tokens times vocabulary times four, while the second is run. V is the size of the vocabulary.
"""

from __future__ import annotations

import ctypes
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO, TypeAlias

import torch
from torch import Tensor

from llmcli.api import LoadedModel
from llmcli.device import one_thread
from llmcli.engine import SamplingParams, Step
from llmcli.errors import UsageError
from llmcli.inspection.core.distributions import change, kl_divergence, perplexity
from llmcli.inspection.core.tokens import Token, token
from llmcli.inspection.evaluation.perplexity import logits_along

# Candidates that are kept of each step of a continuation, to say what one model thinks of the other's token.
_CANDIDATES = 20

Progress: TypeAlias = Callable[[str, int, int], None]
"""Told what is going on, how many tokens are done, and of how many."""


@dataclass(frozen=True)
class Expected:
    """What one model expects in a place: the log-probability (nats) of the token that came, and its first choice."""

    logprob: float
    choice: Token
    choice_logprob: float


@dataclass(frozen=True)
class ComparedToken:
    """A token of the text. All but the token are None where nothing came before it or it was only read."""

    index: int
    id: int
    text: str
    bytes: bytes
    kl: float | None = None
    """KL(first || second) of what they expect here, nats: 0 where they expect the same."""
    first: Expected | None = None
    second: Expected | None = None


@dataclass(frozen=True)
class Continuation:
    """What a model writes after the prompt when it always takes the most probable token."""

    text: str
    tokens: tuple[Token, ...]
    ended: bool
    """It ended by itself."""


@dataclass(frozen=True)
class Parting:
    """The first token in which the continuations differ; None is the end of one."""

    index: int
    first: Token | None
    second: Token | None
    first_gap: float | None
    """How much more probable the first model finds its own token than that of the other, nats; None where the other's
    was not among its 20 best, or one of them ended."""
    second_gap: float | None


@dataclass(frozen=True)
class Comparison:
    """Two models on one text."""

    models: tuple[str, str]
    tokens: tuple[ComparedToken, ...]
    compared: int
    """How many of the tokens have been compared."""
    mean_kl: float
    largest_kl: float
    agreement: float
    """The share of places in which both have the same first choice, 0 to 1."""
    perplexities: tuple[float, float]
    continuations: tuple[Continuation, Continuation]
    parting: Parting | None
    """None if they write the same."""
    paths: tuple[str, str]
    """Which path computed each of them."""


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
    """Compare two models, each loaded when it is its turn; the first is let go before the second is loaded.

    `prompt` gives, from the first model's tokenizer, the ids of the text. What is compared is that text, or with
    `reply` what the first model writes after it. Both write up to `max_tokens` after it. A text longer than the context
    of either is read in windows, as `score` does, and continued from its end. `names` are what the models are to be
    called. Fast paths compute, as in a reply, or with `readable` the readable models read the text.

    Raises:
        UsageError: the models do not have the same tokenizer, or there is nothing to compare.
    """
    tell = progress or (lambda what, done, total: None)
    with _RowFile() as kept:
        loaded = first()
        ids = list(prompt(loaded))
        said, first_steps = _continuation(loaded, ids, max_tokens)
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
            tell("The first model", index + 1, len(text))
        del loaded, prefix_cache, logits
        loaded = second()
        _check_same(pieces, loaded)
        also, second_steps = _continuation(loaded, ids, max_tokens)
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
            tell("The second model", index + 1, len(text))
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


def _continuation(loaded: LoadedModel, ids: Sequence[int], max_tokens: int) -> tuple[Continuation, list[Step]]:
    greedy = SamplingParams(temperature=0, max_tokens=max_tokens)
    if len(ids) + max_tokens > loaded.config.context_length:
        ids = ids[-max(1, loaded.config.context_length // 2) :]
    *events, finish = loaded.engine().stream(ids, greedy, top=_CANDIDATES)
    steps = [event for event in events if isinstance(event, Step)]
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
    """Rows of float32 in a temporary file, read in the order in which they were written."""

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
