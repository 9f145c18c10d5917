"""Attention whose heads share one row for each token, and compressed blocks of tokens, as data (DeepSeek-V4)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SharedRowConfig:
    """Attention whose heads all read one row for each token, which is both its key and its value.

    The last values of queries and rows are rotated.
    """

    query_rank: int
    """Size of the compressed query."""
    groups: int
    """Groups of heads; the output projection first projects each group alone."""
    group_rank: int
    """Values that a group of heads is projected to."""


@dataclass(frozen=True)
class BlocksConfig:
    """Blocks of tokens, each compressed to one more row that later tokens attend to."""

    rate: int
    """Tokens of a block."""
    overlapping: bool = False
    """A row also mixes the tokens of the block before, which have a second set of values and gates for that."""

    @property
    def sets(self) -> int:
        """Sets of values and gates that a token has: one for each row that it is mixed into."""
        return 2 if self.overlapping else 1

    def first_needed(self, position: int) -> int:
        """The first token whose values are needed to compress the block that the token at `position` belongs to."""
        return max(0, position // self.rate - self.sets + 1) * self.rate

    def complete(self, tokens: int) -> int:
        """Complete blocks of a text of `tokens` tokens."""
        return tokens // self.rate

    def entries(self, tokens: int, size: int) -> int:
        """Numbers that a layer keeps after `tokens` tokens for rows of `size` values: rows, and what blocks need."""
        return self.complete(tokens) * size + self.needed(tokens, size)

    def needed(self, tokens: int, size: int) -> int:
        """The most numbers kept for blocks that are not compressed yet: values and gates of their tokens."""
        return min(tokens, self.sets * self.rate) * 2 * self.sets * size
