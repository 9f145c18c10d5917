"""Rotary position embedding as data: the base, the size, and the scaling rules for longer contexts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class LinearScaling:
    """Every frequency divided by `factor` (position interpolation, Chen et al. 2023, arXiv:2306.15595)."""

    factor: float


@dataclass(frozen=True)
class DynamicScaling:
    """Dynamic NTK: a base that grows once the text exceeds `original_context` (arXiv:2309.00071, app. B.3)."""

    factor: float
    original_context: int


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's rule: long wavelengths divided by `factor`, short ones kept, a ramp between (arXiv:2407.21783)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True)
class YarnScaling:
    """YaRN (Peng et al. 2023, arXiv:2309.00071): interpolation by parts; `attention_factor` scales cos and sin."""

    factor: float
    original_context: int
    beta_fast: float
    beta_slow: float
    attention_factor: float
    truncate: bool


@dataclass(frozen=True)
class LongRopeScaling:
    """LongRoPE (Ding et al. 2024, arXiv:2402.13753): one divisor per frequency, in two sets.

    `long` applies to all positions of a text longer than `original_context`; `short` to all other texts.
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    original_context: int
    attention_factor: float
    """Factor on cosines and sines."""
    long_attention_factor: float | None = None
    """The factor where `long` applies; None: the same."""


NOT_ROTATED = 1e30
"""Divisor of the frequencies of values that do not rotate (Gemma 4), as GGUF files have it."""


@dataclass(frozen=True)
class FrequencyFactors:
    """One divisor per frequency, as GGUF files store Llama 3.1's rule (`rope_freqs`)."""

    divisors: tuple[float, ...]

    @property
    def unrotated(self) -> int:
        """Values of a head in pairs that do not rotate."""
        return 2 * sum(divisor >= NOT_ROTATED for divisor in self.divisors)


RopeScaling: TypeAlias = (
    LinearScaling | DynamicScaling | Llama3Scaling | YarnScaling | LongRopeScaling | FrequencyFactors
)


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864).

    The first `rotary_dim` values of each head are rotated in the pairs (j, j + rotary_dim / 2); the rest pass through.
    """

    theta: float
    rotary_dim: int
    scaling: RopeScaling | None = None
    float32: bool = False
    """Rotate in float32; otherwise cos and sin are rounded to the activations' type, as most models were trained."""

    def decisive_length(self, length: int) -> int:
        """The shortest text with the same rotations as one of `length` tokens; 0 where the length does not matter."""
        match self.scaling:
            case LongRopeScaling():
                return self.scaling.original_context + 1 if length > self.scaling.original_context else 0
            case DynamicScaling():
                return length if length > self.scaling.original_context else 0
            case _:
                return 0
