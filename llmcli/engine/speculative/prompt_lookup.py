"""Prompt lookup: propose what followed the last tokens of the text where they occurred before.

Prompt lookup decoding (Saxena 2023) needs no second model: a reply that quotes, summarizes or edits a text repeats much
of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

SHORTEST = 3
"""The shortest match, in tokens, whose following tokens are proposed."""
LONGEST = 12
"""The most tokens that are compared: a match of this length is hardly a coincidence."""
# The most earlier occurrences that are compared, latest first: a common phrase may have hundreds.
_PLACES = 16


class Match(NamedTuple):
    """An earlier occurrence of the last tokens of a text."""

    length: int
    """How many tokens match, at most `LONGEST`."""
    following: list[int]
    """The tokens that came next."""


class Lookup:
    """Finds earlier occurrences of the end of one text, which only grows."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], list[int]] = {}
        self._indexed = 0

    def find(self, ids: Sequence[int], most: int) -> Match | None:
        """The longest match of the end of `ids`, the latest of equal ones, with the `most` tokens after it."""
        end = len(ids)
        if end < SHORTEST:
            return None
        self._index(ids, end - 1)
        places = self._known.get(tuple(ids[end - SHORTEST :]), ())
        length, best = 0, 0
        for place in reversed(places[-_PLACES:]):
            same = SHORTEST
            while same < min(LONGEST, place) and ids[place - same - 1] == ids[end - same - 1]:
                same += 1
            if same > length:
                length, best = same, place
        if not length:
            return None
        following = list(ids[best : best + most])
        # If the match is close to the end, assume that the repetition continues: copy from the proposed tokens.
        while len(following) < most:
            following.append(following[best - end])
        return Match(length, following)

    def _index(self, ids: Sequence[int], end: int) -> None:
        """Index the positions after each sequence of `SHORTEST` tokens, up to `end`."""
        for place in range(max(SHORTEST, self._indexed + 1), end + 1):
            self._known.setdefault(tuple(ids[place - SHORTEST : place]), []).append(place)
        self._indexed = max(self._indexed, end)
