"""The parameters for sampling tokens inside a fast path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class SamplingFilters(Protocol):
    """The sampling filters of a reply; `SamplingParams` of the engine describes each number."""

    @property
    def active(self) -> frozenset[str]:
        """The names of all filters that are on, including those that are not listed below."""

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
    """How the tokens of a multi-token call are sampled."""

    filters: SamplingFilters
    uniforms: Sequence[float]
    """Numbers from 0 to 1, one for each token."""
    vocabulary: int
    """Only token ids below this can be chosen; later logits are padding."""
    ends: Sequence[int] = ()
    """Stop tokens: generation ends after one of them."""
