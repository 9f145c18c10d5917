"""Nearest neighbors and vector arithmetic in the input embedding: king - man + woman.

Similarity is the cosine (Mikolov et al. 2013, arXiv:1301.3781, section 1.1). The embeddings of a language model share
a large common component, which makes even unrelated tokens similar; subtracting the mean embedding removes it (Mu &
Viswanath 2018, arXiv:1702.01417). Both rankings are given, with the mean cosine of random pairs as the baseline.

Dimension letters: V tokens, C hidden size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llmcli.checkpoint.checkpoint import Checkpoint
from llmcli.checkpoint.tensors.reader import TensorReader
from llmcli.errors import CheckpointError, UsageError
from llmcli.inspection.core.tokens import Token, token
from llmcli.text.tokenizer import Tokenizer
from llmcli.text.trusted_encoding import TextSegment

_PAIRS = 10_000
# Embedding values held at a time in float32: 64 MiB.
_VALUES_AT_ONCE = 1 << 24
_EXAMPLE = "king - man + woman"


@dataclass(frozen=True)
class Term:
    """A word of the expression and its token."""

    sign: int
    """1 or -1"""
    word: str
    token: Token
    spaced: bool
    """Whether the token includes the space before the word, as in running text."""


@dataclass(frozen=True)
class NeighborToken:
    """A token near the result of the expression."""

    id: int
    text: str
    bytes: bytes
    cosine: float
    input: bool
    """Whether it is one of the words of the expression."""


@dataclass(frozen=True)
class RandomPair:
    """The mean cosine of random pairs of different tokens."""

    raw: float
    centred: float


@dataclass(frozen=True)
class EmbeddingNeighbors:
    """The tokens nearest to an expression, nearest first."""

    expression: tuple[Term, ...]
    raw: tuple[NeighborToken, ...]
    """By the stored embeddings."""
    centred: tuple[NeighborToken, ...]
    """After subtracting the mean embedding of the vocabulary."""
    random_pair: RandomPair


def read_embedding(checkpoint: Checkpoint, tokenizer: Tokenizer) -> Tensor:
    """Read only the input embedding (V, C), in its stored float dtype; float32 if quantized.

    Raises:
        CheckpointError: the file is truncated or cannot be read, or the tokenizer has more tokens than rows.
    """
    config = checkpoint.config
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{checkpoint.path}: the tokenizer has {tokenizer.vocab_size} tokens, "
            f"but the model has embeddings for {config.vocab_size}."
        )
    matrix = torch.empty(config.vocab_size, config.hidden_size, dtype=checkpoint.stored_dtype())
    with TensorReader() as reader:
        checkpoint.sources["embed_tokens.weight"].read_into(checkpoint.tensors, reader, matrix)
    return matrix


def parse_expression(tokenizer: Tokenizer, text: str) -> tuple[Term, ...]:
    """Parse "word" or "word - word + word"; signs need spaces around them.

    Raises:
        UsageError: the form is wrong, or a word is not a single token.
    """
    parts = re.sub("[−–]", "-", text).split()
    if parts and parts[0] not in ("+", "-"):
        parts.insert(0, "+")
    signs, words = parts[::2], parts[1::2]
    if not words or len(signs) != len(words) or not set(signs) <= {"+", "-"} or {"+", "-"} & set(words):
        raise UsageError(f"Give one word, or words joined by + or - with spaces around them, as in: {_EXAMPLE}")
    return tuple(_term(tokenizer, 1 if sign == "+" else -1, word) for sign, word in zip(signs, words, strict=True))


@torch.inference_mode()
def embedding_neighbors(
    tokenizer: Tokenizer,
    matrix: Tensor,
    expression: tuple[Term, ...],
    *,
    top: int = 10,
    seed: int = 0,
    values_at_once: int = _VALUES_AT_ONCE,
) -> EmbeddingNeighbors:
    """The `top` tokens nearest to the signed sum of the terms in the embedding `matrix`.

    `matrix` (rows, C) may have more rows than the vocabulary has tokens; extra rows and ids without a token are
    ignored. `seed` draws the random pairs. At most `values_at_once` of its values are held in float32 at a time.
    """
    matrix = matrix[: tokenizer.vocab_size]
    rows_at_once = max(1, values_at_once // matrix.shape[1])
    known = torch.tensor([bool(tokenizer.piece(row)) for row in range(len(matrix))])
    total = torch.zeros(matrix.shape[1], dtype=torch.float64)
    for rows, chunk in _chunks(matrix, rows_at_once):
        total += known[rows].float() @ chunk
    center = (total / known.sum()).float()  # (C,)
    raw, centred = (
        _nearest(tokenizer, matrix, known, origin, expression, top, rows_at_once) for origin in (0 * center, center)
    )
    return EmbeddingNeighbors(expression, raw, centred, _random_pair(matrix, known, center, seed, rows_at_once))


def _term(tokenizer: Tokenizer, sign: int, word: str) -> Term:
    spaced, bare = (_ids(tokenizer, text) for text in (f" {word}", word))
    for ids, with_space in ((spaced, True), (bare, False)):
        if len(ids) == 1 and not tokenizer.is_special(ids[0]):
            return Term(sign, word, token(tokenizer, ids[0]), with_space)
    fewer = min(spaced, bare, key=len)
    # The only control token that plain text is encoded to is the unknown token.
    if not fewer or any(map(tokenizer.is_special, fewer)):
        raise UsageError(f"{word!r} is not in this vocabulary. Choose another word.")
    pieces = ", ".join(repr(tokenizer.token_text(piece)) for piece in fewer)
    raise UsageError(
        f"{word!r} is {len(fewer)} tokens in this vocabulary ({pieces}), and only single tokens have an embedding. "
        "Choose a more common word, or one of these pieces."
    )


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of `text` as a continuation, without an added space."""
    return tokenizer.encode_segments([TextSegment(text, trusted=False)], continuation=True)


def _chunks(matrix: Tensor, rows_at_once: int) -> Iterator[tuple[slice, Tensor]]:
    """Chunks of rows: their slice, and their values in float32."""
    for start in range(0, len(matrix), rows_at_once):
        rows = slice(start, start + rows_at_once)
        yield rows, matrix[rows].float()


def _nearest(
    tokenizer: Tokenizer,
    matrix: Tensor,
    known: Tensor,
    origin: Tensor,
    expression: tuple[Term, ...],
    top: int,
    rows_at_once: int,
) -> tuple[NeighborToken, ...]:
    """The nearest of the `known` (V,) tokens by cosine, after subtracting `origin` (C,)."""
    inputs = [term.token.id for term in expression]
    signs = torch.tensor([float(term.sign) for term in expression])
    target = F.normalize(signs @ (matrix[inputs].float() - origin), dim=-1)  # (C,)
    cosines = torch.cat([F.normalize(chunk - origin, dim=-1) @ target for _, chunk in _chunks(matrix, rows_at_once)])
    best = cosines.masked_fill(~known, -torch.inf).topk(min(top, int(known.sum())))
    found = [token(tokenizer, index) for index in best.indices.tolist()]
    return tuple(
        NeighborToken(near.id, near.text, near.bytes, cosine, near.id in inputs)
        for near, cosine in zip(found, best.values.tolist(), strict=True)
    )


def _random_pair(matrix: Tensor, known: Tensor, center: Tensor, seed: int, rows_at_once: int) -> RandomPair:
    """The mean cosine of random pairs of different tokens, as stored and after subtracting `center` (C,)."""
    ids = known.nonzero()[:, 0]
    if len(ids) < 2:
        return RandomPair(0.0, 0.0)
    generator = torch.Generator().manual_seed(seed)
    one = torch.randint(len(ids), (_PAIRS,), generator=generator)
    other = (one + torch.randint(1, len(ids), (_PAIRS,), generator=generator)) % len(ids)
    totals = torch.zeros(2, dtype=torch.float64)
    for start in range(0, _PAIRS, rows_at_once):
        a, b = (matrix[ids[side[start : start + rows_at_once]]].float() for side in (one, other))
        for index, origin in enumerate((0 * center, center)):
            totals[index] += F.cosine_similarity(a - origin, b - origin, dim=-1).sum(dtype=torch.float64)
    raw, centred = (totals / _PAIRS).tolist()
    return RandomPair(raw, centred)
