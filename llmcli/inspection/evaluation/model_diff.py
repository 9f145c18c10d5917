"""Compare two models on one text: the KL divergence of their distributions per token, and their greedy continuations.

The models need not be in memory together: the first model's log-probabilities are kept in a temporary file (4 bytes
times tokens times vocabulary) while the second model runs. V is the size of the vocabulary.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import IO, TypeAlias

from torch import Tensor

from llmcli.device import one_thread
from llmcli.errors import UsageError
from llmcli.inspection.core.distributions import change, kl_divergence, perplexity
from llmcli.inspection.core.tokens import Token
from llmcli.inspection.evaluation.comparison_side import (
    ComparisonSide,
    Continuation,
    Expected,
    GreedyContinuation,
    row_bytes,
    row_from_bytes,
)

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with (description, tokens done, all tokens)."""


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
    first: Callable[[], ComparisonSide],
    second: Callable[[], ComparisonSide],
    *,
    reply: bool,
    max_tokens: int = 64,
    names: tuple[str | None, str | None] = (None, None),
    progress: Progress | None = None,
) -> Comparison:
    """Compare two models; the first is released before the second is made.

    The models are compared on the first one's prompt, or with `reply` on the first one's reply to it. Both continue the
    prompt by up to `max_tokens`. A text longer than the context of either model is read in windows, as `score` does,
    and continued from its end. `names` replaces the models' names in the result.

    Raises:
        UsageError: the models do not have the same tokenizer, or there is nothing to compare.
    """
    tell = progress or (lambda what, done, total: None)
    with _RowFile() as kept:
        before: list[Expected] = []
        with closing(first()) as model:
            begun = model.begin(None, max_tokens)
            said = model.write(partial(tell, "The first model writes"))
            tokens = [*begun.prompt, *(said.continuation.tokens if reply else ())]
            ids = [token.id for token in tokens]
            start = len(begun.prompt) if reply else 1
            if len(ids) <= start:
                raise UsageError("There is nothing to compare: the text has no second token, or the reply is empty.")
            reads = partial(tell, "The first model reads")
            for expected, logprobs in model.read(ids, start=start, window=None, tell=reads):
                before.append(expected)
                kept.write(logprobs)
            first_path = model.path
        del model
        after: list[Expected] = []
        divergences: list[float] = []
        with closing(second()) as model:
            second_begun = model.begin([token.id for token in begun.prompt], max_tokens)
            _check_same(begun.pieces, second_begun.pieces)
            also = model.write(partial(tell, "The second model writes"))
            shorter = min(begun.context_length, second_begun.context_length)
            reads = partial(tell, "The second model reads")
            for expected, logprobs in model.read(ids, start=start, window=shorter, tell=reads):
                after.append(expected)
                with one_thread():
                    divergences.append(float(kl_divergence(kept.read().double(), logprobs.double())))
            second_path = model.path
    pairs = list(zip(divergences, before, after, strict=True))
    compared = [
        ComparedToken(index, token.id, token.text, token.bytes, *(pairs[index - start] if index >= start else ()))
        for index, token in enumerate(tokens)
    ]
    return Comparison(
        models=(names[0] or begun.name, names[1] or second_begun.name),
        tokens=tuple(compared),
        compared=len(pairs),
        mean_kl=math.fsum(divergences) / len(pairs),
        largest_kl=max(divergences),
        agreement=sum(a.choice.id == b.choice.id for _, a, b in pairs) / len(pairs),
        perplexities=(_perplexity(before), _perplexity(after)),
        continuations=(said.continuation, also.continuation),
        parting=_parting(said, also),
        paths=(first_path, second_path),
    )


def _perplexity(expected: Sequence[Expected]) -> float:
    return perplexity([each.logprob for each in expected])


def _parting(first: GreedyContinuation, second: GreedyContinuation) -> Parting | None:
    own_tokens, other_tokens = first.continuation.tokens, second.continuation.tokens
    length = min(len(own_tokens), len(other_tokens))
    same = next((at for at in range(length) if own_tokens[at].id != other_tokens[at].id), length)
    own, other = (said[same] if same < len(said) else None for said in (own_tokens, other_tokens))
    if own is None and other is None:
        return None

    def gap(written: GreedyContinuation, own: Token | None, other: Token | None) -> float | None:
        if own is None or other is None:
            return None
        known = {candidate.id: candidate.logprob for candidate in written.candidates[same]}
        return change(known[other.id], known[own.id]) if other.id in known else None

    return Parting(same, own, other, gap(first, own, other), gap(second, other, own))


def _check_same(pieces: Sequence[str], other: Sequence[str]) -> None:
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
        self._row_bytes = row.nbytes
        self._file.write(row_bytes(row))

    def read(self) -> Tensor:
        if not self._reading:
            self._file.seek(0)
            self._reading = True
        return row_from_bytes(self._file.read(self._row_bytes))
