"""The states of a text's recurrent layers, and marks: earlier states of them that the text can go back to.

A state cannot forget single tokens as a key-value cache does, so going back needs a copy from that place of the text.
States are never changed in place: a mark only keeps the tensors alive, so setting one costs no time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from llmcli.model.cache.marks import most_marks
from llmcli.model.cache.state import State
from llmcli.model.config import ModelConfig


class _Mark(NamedTuple):
    length: int
    """Tokens that its states have read."""
    states: tuple[State | None, ...]


class TextStates:
    """The states of all layers, None for those without one and before the text begins."""

    def __init__(self, config: ModelConfig, bytes_per_value: int) -> None:
        self.is_used = config.has_state
        """Whether any layer has a state."""
        self._now: list[State | None] = [None] * config.num_layers
        self._coming: dict[int, State] = {}
        self._marks: list[_Mark] = []
        self._brief: _Mark | None = None
        self._most = most_marks(config.state_bytes(bytes_per_value))

    @property
    def nbytes(self) -> int:
        """Bytes of the states and of all marks; states that are the same tensors count once."""
        held = {id(state): state for states in (self._now, *(mark.states for mark in self._all)) for state in states}
        return sum(state.nbytes for state in held.values() if state is not None)

    def state(self, layer: int) -> State | None:
        """The state of a layer after the tokens read so far."""
        return self._now[layer]

    def store(self, layer: int, state: State) -> None:
        """Store what a layer's state becomes once the pass is complete."""
        self._coming[layer] = state

    def begin(self) -> None:
        """Begin a pass: drop what an interrupted one has stored."""
        self._coming.clear()

    def advance(self) -> None:
        """The pass is complete: its states are those of the text."""
        for layer, state in self._coming.items():
            self._now[layer] = state
        self._coming.clear()

    def mark(self, length: int, *, brief: bool) -> None:
        """Keep the present states, after `length` tokens. There is one `brief` mark: the next one replaces it."""
        mark = _Mark(length, tuple(self._now))
        if brief:
            self._brief = mark
            return
        self._marks = [*(other for other in self._marks if other.length != length), mark]
        self._thin(length)

    def lengths(self) -> Iterator[int]:
        """The lengths that have a mark, the greatest first."""
        return iter(sorted({mark.length for mark in self._all}, reverse=True))

    def go_back(self, length: int) -> None:
        """Return to the mark at `length` and drop later ones; length 0 drops all."""
        if length == 0:
            self._now = [None] * len(self._now)
        else:
            self._now = list(next(mark for mark in self._all if mark.length == length).states)
        self._marks = [mark for mark in self._marks if 0 < mark.length <= length]
        if self._brief is not None and self._brief.length > length:
            self._brief = None

    def contents(self) -> tuple[list[State | None], list[_Mark], _Mark | None]:
        """States and marks, for `restore`."""
        return list(self._now), list(self._marks), self._brief

    def restore(self, contents: tuple[list[State | None], list[_Mark], _Mark | None]) -> None:
        """Return to earlier `contents`."""
        self._now, self._marks, self._brief = contents

    @property
    def _all(self) -> Sequence[_Mark]:
        return self._marks if self._brief is None else [*self._marks, self._brief]

    def _thin(self, end: int) -> None:
        """Drop marks above the limit, so that their distances to the end of the text grow like powers of a number.

        A mark is missed least if the mark before it is not much further from the end than the one after it: that is
        how much longer the text to be read again becomes, at most. The newest two stay.
        """
        while len(self._marks) > self._most:
            before = [0, *(mark.length for mark in self._marks)]
            ratios = [
                (end - before[index] + 1) / (end - self._marks[index + 1].length + 1)
                for index in range(len(self._marks) - 2)
            ]
            del self._marks[ratios.index(min(ratios))]
