"""A list of strings as UTF-8 in a few blocks of bytes: a vocabulary without a Python object for each token."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import accumulate, islice
from operator import add
from typing import overload

# UTF-8 never contains this byte.
_SEPARATOR = b"\xff"
# Strings in a block. Searching creates the objects of one block at a time.
_BLOCK = 4096
_SHOWN = 8


class PackedStrings(Sequence[str]):
    """An immutable sequence of strings, each decoded when it is read; equal to any sequence of the same strings."""

    def __init__(self, strings: Iterable[bytes]) -> None:
        """Pack `strings`, which must be UTF-8.

        Raises:
            UnicodeDecodeError: one of them is not.
        """
        self._blocks: list[bytes] = []
        # Where each string ends in its block.
        self._ends = array("Q")
        self.longest: int = 0
        """The length of the longest string in characters; 0 if there are none."""
        remaining = iter(strings)
        while block := list(islice(remaining, _BLOCK)):
            joined = _SEPARATOR.join(block)
            # Decoding together is ten times as fast. A character that is cut in two does not pass the separator.
            texts = joined.replace(_SEPARATOR, b"\0").decode().split("\0")
            if len(texts) != len(block) or joined.count(_SEPARATOR) != len(block) - 1:
                texts = [string.decode() for string in block]
            self.longest = max(self.longest, *map(len, texts))
            self._ends.extend(map(add, accumulate(map(len, block)), range(len(block))))
            self._blocks.append(joined)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [self[index] for index in range(len(self))[at]]
        index = range(len(self))[at]
        start = 0 if index % _BLOCK == 0 else self._ends[index - 1] + 1
        return self._blocks[index // _BLOCK][start : self._ends[index]].decode()

    def __iter__(self) -> Iterator[str]:
        return map(bytes.decode, self.encoded())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str | bytes) or not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{self[:_SHOWN]}" if len(self) <= _SHOWN else f"{self[:_SHOWN]} and {len(self) - _SHOWN} more"

    def encoded(self) -> Iterator[bytes]:
        """The strings as UTF-8."""
        for block in self._blocks:
            yield from block.split(_SEPARATOR)

    def blocks(self) -> Iterator[bytes]:
        """The strings as UTF-8 in order, some thousands at a time, each string followed by a byte 0xFF."""
        for block in self._blocks:
            yield block + _SEPARATOR

    def matches(self, wanted: Collection[bytes]) -> list[int]:
        """Indices of the strings that are in `wanted`, a set of UTF-8 strings."""
        found: list[int] = []
        for number, block in enumerate(self._blocks):
            start = number * _BLOCK
            found += [start + at for at, string in enumerate(block.split(_SEPARATOR)) if string in wanted]
        return found

    def find(self, string: str) -> int | None:
        """The index of the first string that equals `string`; None if there is none."""
        wanted = _SEPARATOR + string.encode() + _SEPARATOR
        for number, block in enumerate(self._blocks):
            at = (_SEPARATOR + block + _SEPARATOR).find(wanted)
            if at >= 0:
                return number * _BLOCK + block.count(_SEPARATOR, 0, at)
        return None

    def has_duplicates(self) -> bool:
        """Whether two strings are equal."""
        return len(self.encoded_set()) < len(self)

    def encoded_set(self) -> set[bytes]:
        """The different strings as UTF-8."""
        found: set[bytes] = set()
        for block in self._blocks:
            found.update(block.split(_SEPARATOR))
        return found

    def has_empty(self) -> bool:
        """Whether one of the strings is empty."""
        return any(_SEPARATOR * 2 in _SEPARATOR + block + _SEPARATOR for block in self._blocks)
