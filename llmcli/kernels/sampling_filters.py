"""What whoever chooses tokens on a fast path has to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class SamplingFilters(Protocol):
    """How a token is chosen; what the numbers mean is said in `SamplingParams` of the engine."""

    @property
    def active(self) -> frozenset[str]:
        """The names of all filters that are on, those that are not listed below too."""

    @property
    def repeat_penalty(self) -> float:
        """1 is off."""

    @property
    def temperature(self) -> float:
        """0 takes the most probable token."""

    @property
    def top_k(self) -> int:
        """0 is off."""

    @property
    def top_p(self) -> float:
        """1 is off."""

    @property
    def min_p(self) -> float:
        """0 is off."""


@dataclass(frozen=True)
class SamplingRequest:
    """How the tokens of a burst are chosen."""

    filters: SamplingFilters
    uniforms: Sequence[float]
    """Numbers from 0 to 1, one for each token."""
    vocabulary: int
    """Only so many of the first tokens can be chosen."""
    ends: Sequence[int] = ()
    """Tokens after which no more are wanted."""
