"""Neighbors of embeddings, to be drawn."""

from __future__ import annotations

from llmcli.inspection.core.tokens import Token
from llmcli.inspection.residual.embeddings import EmbeddingNeighbors, NeighborToken, RandomPair, Term


def near(data: bytes, cosine: float, *, given: bool = False) -> NeighborToken:
    return NeighborToken(1, data.decode(errors="replace"), data, cosine, given)


RESULT = EmbeddingNeighbors(
    expression=(
        Term(1, "king", Token(1, " king", b" king"), spaced=True),
        Term(-1, "man", Token(2, "man", b"man"), spaced=False),
    ),
    raw=(near(b" queen", 0.7162), near(b" king", 0.6915, given=True), near(b"\x1b[2J", 0.5)),
    centred=(near(b" king", 0.659, given=True), near(b"\xf0\x9f", 0.25), near(b" a-very-long-token-of-code", -0.1)),
    random_pair=RandomPair(0.44, 0.0005),
)
