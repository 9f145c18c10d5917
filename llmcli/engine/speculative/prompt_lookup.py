"""Prompt lookup: propose what followed the last tokens of the text where they occurred before.

After "Assisted generation" by prompt lookup (Saxena 2023), which needs no second model: a reply that quotes, summarizes
or edits a text says much of it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

SHORTEST = 3
"""The fewest tokens that must be the same for what followed them to be proposed."""
LONGEST = 12
"""The most tokens that are compared: a match of that length is no coincidence."""
# Earlier places that are compared, the latest first: a common phrase may be at hundreds.
_PLACES = 16


class Match(NamedTuple):
    """An earlier place in a text that is like its end."""

    length: int
    """How many tokens are the same, `LONGEST` at most."""
    following: list[int]
    """The tokens that came next."""


class Lookup:
    """Finds the end of one text, which only ever grows, earlier in it."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], list[int]] = {}
        self._indexed = 0

    def find(self, ids: Sequence[int], most: int) -> Match | None:
        """The longest match of the end of `ids`, the latest of several, and what followed it, `most` tokens at most."""
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
        # A text that repeats itself is taken to go on so: what is proposed may be of what was just proposed.
        while len(following) < most:
            following.append(following[best - end])
        return Match(length, following)

    def _index(self, ids: Sequence[int], end: int) -> None:
        """Remember for each few tokens the places after them, up to `end`."""
        for place in range(max(SHORTEST, self._indexed + 1), end + 1):
            self._known.setdefault(tuple(ids[place - SHORTEST : place]), []).append(place)
        self._indexed = max(self._indexed, end)
