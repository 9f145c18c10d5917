"""Rotary position embedding: pairs of values are rotated by an angle proportional to the position.

Dimension letters: T new tokens, D head size, R rotary size (R <= D).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from llmcli.model.rope_config import (
    DynamicScaling,
    FrequencyFactors,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RopeConfig,
    YarnScaling,
)


def inverse_frequencies(config: RopeConfig, length: int = 0) -> Tensor:
    """Radians per position of each rotated pair in a text of `length` tokens, shape (R / 2,), float32, on the CPU.

    `theta^(-2j/R)` (Su et al. 2021, section 3.2.2), then the scaling that `config` asks for.
    """
    theta, size = config.theta, config.rotary_dim
    if isinstance(config.scaling, DynamicScaling) and length > config.scaling.original_context:
        stretch = config.scaling.factor * length / config.scaling.original_context - (config.scaling.factor - 1)
        theta *= stretch ** (size / (size - 2))
    # In Python where rounding is the same: each kind of torch function that is called loads 0.7 MiB.
    powers = theta ** torch.tensor([pair / size for pair in range(0, size, 2)], device="cpu")
    inverse = torch.tensor([1.0 / power for power in powers.tolist()], device="cpu")
    match config.scaling:
        case None | DynamicScaling():
            return inverse
        case LinearScaling(factor):
            return inverse / factor
        case FrequencyFactors(divisors):
            return inverse / torch.tensor(divisors, device="cpu")
        case LongRopeScaling(short, long, original_context):
            return inverse / torch.tensor(long if length > original_context else short, device="cpu")
        case Llama3Scaling():
            return _llama3(inverse, config.scaling)
        case YarnScaling():
            return _yarn(inverse, config, config.scaling)


def _llama3(inverse: Tensor, scaling: Llama3Scaling) -> Tensor:
    wavelength = 2 * math.pi / inverse
    turns = scaling.original_context / wavelength  # full turns within the original context
    # where, not a blend: with equal factors (Llama 4 Scout) the ramp divides by zero in lanes that are not selected.
    ramp = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor or 1.0)
    blended = (1 - ramp) * inverse / scaling.factor + ramp * inverse
    scaled = torch.where(turns < scaling.low_freq_factor, inverse / scaling.factor, blended)
    return torch.where(turns > scaling.high_freq_factor, inverse, scaled)


def _yarn(inverse: Tensor, config: RopeConfig, scaling: YarnScaling) -> Tensor:
    """Keep high frequencies, interpolate low ones, with a ramp between (arXiv:2309.00071, section 3.2)."""

    def pair_with_turns(turns: float) -> float:
        return (
            config.rotary_dim
            * math.log(scaling.original_context / (turns * 2 * math.pi))
            / (2 * math.log(config.theta))
        )

    low, high = pair_with_turns(scaling.beta_fast), pair_with_turns(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.rotary_dim - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(config.rotary_dim // 2, device="cpu").float() - low) / (high - low)).clamp(0, 1)
    return (inverse / scaling.factor) * ramp + inverse * (1 - ramp)


class Rope(nn.Module):
    """Cosines and sines of one `RopeConfig`, shared by every layer that uses it."""

    inverse_frequencies: Tensor

    def __init__(self, config: RopeConfig) -> None:
        super().__init__()
        self.config = config
        # Computed from the configuration, so it is neither in the checkpoint nor ever on the `meta` device.
        self.register_buffer("inverse_frequencies", inverse_frequencies(config), persistent=False)
        scaled = isinstance(config.scaling, YarnScaling | LongRopeScaling)
        self.attention_factor = config.scaling.attention_factor if scaled else 1.0  # type: ignore[union-attr]

    def forward(self, positions: Tensor, dtype: torch.dtype, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines for `positions` (T,) of a text of `length` tokens, each (T, R / 2).

        The angles are computed in float32 whatever `dtype` is: bfloat16 could not tell position 1000 from 1001.
        """
        inverse, factor = self.inverse_frequencies, self.attention_factor
        if decisive := self.config.decisive_length(length):
            inverse = inverse_frequencies(self.config, decisive).to(positions.device)
            if isinstance(self.config.scaling, LongRopeScaling) and decisive > self.config.scaling.original_context:
                factor = self.config.scaling.long_attention_factor or factor
        if self.config.float32:
            dtype = torch.float32
        angles = positions.float()[:, None] * inverse  # (T, R/2)
        return (angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype)

    def of_texts(self, positions: Tensor, dtype: torch.dtype, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each (N, R / 2), of one position in each of N texts; `lengths` are theirs, in tokens."""
        if len({self.config.decisive_length(length) for length in lengths}) == 1:
            return self.forward(positions, dtype, lengths[0])
        parts = [self.forward(positions[row : row + 1], dtype, length) for row, length in enumerate(lengths)]
        return torch.cat([cos for cos, _ in parts]), torch.cat([sin for _, sin in parts])


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (j, j + R/2) of the first R values of every head; `x` (B, H, T, D), `cos` and `sin` (T, R/2)."""
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    # Back from float32 where cos and sin are in float32.
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1).to(x.dtype)


def rotate_last(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the neighboring pairs (2j, 2j+1) of the last R values; `x` (B, H, T, D), `cos` and `sin` (T, R/2).

    In float32, whatever the type of cosines and sines, then rounded to the type of `x`.
    """
    size = 2 * cos.shape[-1]
    rest, rotated = x[..., : x.shape[-1] - size], x[..., x.shape[-1] - size :].float()
    even, odd = rotated[..., 0::2], rotated[..., 1::2]
    turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
    return torch.cat((rest, turned.to(x.dtype)), dim=-1)
