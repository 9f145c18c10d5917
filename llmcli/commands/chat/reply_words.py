"""Find a word of a reply in its tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

_PUNCTUATION = ".,;:!?…\"'“”„‘’«»()[]*`。、，！？「」"


@dataclass(frozen=True)
class FoundWord:
    """A word of a reply: its tokens, and which of its occurrences it is."""

    word: str
    tokens: range
    """Numbers of the tokens that it is part of."""
    occurrence: int
    """From 1."""
    occurrences: int


def find_word(wanted: str, pieces: Sequence[bytes]) -> FoundWord | None:
    """The word `wanted` in the text of the tokens `pieces`; None if it is not in it.

    `WORD N` is the Nth occurrence, and in quotes anything is a word. Whole words come before parts of words, and the
    same letters before capital or small ones. Punctuation at either end of `wanted` is left out if the reply does not
    have it.
    """
    quoted = re.fullmatch(r"""(["'“])(.+)["'”](?:\s+(\d+))?""", wanted)
    numbered = re.fullmatch(r"(.+?)\s+(\d+)", wanted)
    tries = [(wanted, 1)]
    if quoted:
        tries = [(quoted[2], int(quoted[3] or 1))]
    else:
        if numbered:
            tries.append((numbered[1], int(numbered[2])))
        bare = [(word.strip(_PUNCTUATION), number) for word, number in tries]
        tries += [(word, number) for word, number in bare if word]
    for word, number in tries:
        spans = _spans(word, b"".join(pieces))
        if 1 <= number <= len(spans):
            return FoundWord(word, _tokens(spans[number - 1], pieces), number, len(spans))
    return None


def _spans(word: str, data: bytes) -> list[tuple[int, int]]:
    """Begin and end in bytes of each occurrence of `word`."""
    text = data.decode("utf-8", errors="surrogateescape")
    literal = re.escape(word)
    for pattern in (rf"(?<!\w){literal}(?!\w)", literal):
        for flags in (0, re.IGNORECASE):
            found = [match.span() for match in re.finditer(pattern, text, flags)]
            if found:
                return [(_bytes_before(text, begin), _bytes_before(text, end)) for begin, end in found]
    return []


def _bytes_before(text: str, place: int) -> int:
    return len(text[:place].encode("utf-8", errors="surrogateescape"))


def _tokens(span: tuple[int, int], pieces: Sequence[bytes]) -> range:
    begin, end = span
    ends = list(accumulate(map(len, pieces)))
    first = next(number for number, its_end in enumerate(ends) if its_end > begin)
    return range(first, next(number for number, its_end in enumerate(ends) if its_end >= end) + 1)
