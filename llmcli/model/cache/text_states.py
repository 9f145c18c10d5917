"""The length of a text and the states of its recurrent layers, and marks: earlier ones that the text can go back to.

A state cannot forget single tokens as a key-value cache does, so going back needs a copy from that place of the text.
States are never changed in place: a mark only keeps the tensors alive, so setting one costs no time. A mark also has
copies of what the cache drops after some tokens: the last inputs of short convolutions, the rows in the windows of
attention with compressed blocks, and the values of tokens whose block is not complete.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from torch import Tensor

from llmcli.model.cache.marks import most_marks
from llmcli.model.cache.state import State
from llmcli.model.config import ModelConfig

Copies: TypeAlias = Mapping[int, tuple[Tensor, Tensor]]
"""Copies of a part of the cache, by layer: keys and values (B, K, S, D)."""


class Mark(NamedTuple):
    """A length of the text in tokens, and each state after them, None for a layer without one."""

    length: int
    states: tuple[State | None, ...]
    windows: Copies = MappingProxyType({})
    """What the next token sees in the windows that marks hold."""
    blocks: Copies = MappingProxyType({})
    """The values and gates that the next token's block needs."""


class TextStates:
    """The present length and states of a text, and its marks."""

    def __init__(self, config: ModelConfig, bytes_per_value: int) -> None:
        self.has_state = config.has_state
        """Whether any layer has a state: then the text can only go back to marks."""
        # One object: an interruption cannot change the length without the states, or one state without the others.
        self.now = self._start = Mark(0, (None,) * config.state_slots)
        """What has been read. Before a text begins no layer has a state."""
        self._coming: dict[int, State] = {}
        self._marks: list[Mark] = []
        self._brief: Mark | None = None
        self._most = most_marks(config.mark_bytes(bytes_per_value))

    @property
    def nbytes(self) -> int:
        """Bytes of the states and of all marks; states that are the same tensors count once."""
        held = {id(state): state for mark in (self.now, *self._all) for state in mark.states}
        copies = {
            id(pair): pair for mark in self._all for part in (mark.windows, mark.blocks) for pair in part.values()
        }
        states = sum(state.nbytes for state in held.values() if state is not None)
        return states + sum(tensor.nbytes for pair in copies.values() for tensor in pair)

    def store(self, layer: int, state: State) -> None:
        """Store what a layer's state becomes once the pass is complete."""
        self._coming[layer] = state

    def begin(self) -> None:
        """Begin a pass: drop what an interrupted one has stored."""
        self._coming.clear()

    def advance(self, tokens: int) -> None:
        """The pass of `tokens` tokens is complete: its states are those of the text."""
        states = self.now.states
        if self._coming:
            states = tuple(self._coming.get(layer, state) for layer, state in enumerate(states))
        self.now = Mark(self.now.length + tokens, states)
        self._coming.clear()

    def mark(self, windows: Copies, blocks: Copies, *, brief: bool) -> None:
        """Keep the present states, and copies of what `windows` show and of what `blocks` need.

        There is one `brief` mark: the next one replaces it.
        """
        mark = self.now._replace(windows=windows, blocks=blocks)
        if brief:
            self._brief = mark
        else:
            self._marks = self._thinned([*(other for other in self._marks if other.length < mark.length), mark])

    def lengths(self) -> list[int]:
        """The lengths that have a mark, the greatest first."""
        return sorted({mark.length for mark in self._all}, reverse=True)

    def at(self, length: int) -> Mark | None:
        """The mark at a length."""
        return next((mark for mark in self._all if mark.length == length), None)

    def go_back(self, length: int) -> None:
        """Return to `length`, which has a mark if layers have states and it is not 0, and drop later marks."""
        to = self._start if length == 0 else Mark(length, self.now.states)
        if self.has_state and 0 < length < self.now.length and (mark := self.at(length)) is not None:
            to = Mark(length, mark.states)
        self._marks = [mark for mark in self._marks if mark.length <= length]
        if self._brief is not None and self._brief.length > length:
            self._brief = None
        self.now = to

    def copied(self) -> TextStates:
        """The same states and marks, for another text; tensors are shared, since none is changed in place."""
        other = copy.copy(self)
        other._coming, other._marks = {}, [*self._marks]
        return other

    def contents(self) -> tuple[Mark, list[Mark], Mark | None]:
        """States and marks, for `restore`."""
        return self.now, self._marks, self._brief

    def restore(self, contents: tuple[Mark, list[Mark], Mark | None]) -> None:
        """Return to earlier `contents`."""
        self.now, self._marks, self._brief = contents

    @property
    def _all(self) -> Sequence[Mark]:
        return self._marks if self._brief is None else [*self._marks, self._brief]

    def _thinned(self, marks: list[Mark]) -> list[Mark]:
        """Drop marks above the limit, so that their distances to the end of the text grow like powers of a number.

        A mark is missed least if the mark before it is not much further from the end than the one after it: that is
        how much longer the text to be read again becomes, at most. The newest two stay.
        """
        end = marks[-1].length
        while len(marks) > self._most:
            before = [0, *(mark.length for mark in marks)]
            ratios = [
                (end - before[index] + 1) / (end - marks[index + 1].length + 1) for index in range(len(marks) - 2)
            ]
            del marks[ratios.index(min(ratios))]
        return marks
