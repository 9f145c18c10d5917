"""The numbers that define a model.

A family of models is data here: whatever differs from layer to layer sits in `LayerConfig`, so that the modules
never ask which family they belong to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Activation: TypeAlias = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]


@dataclass(frozen=True)
class LinearScaling:
    """Every frequency divided by `factor` (position interpolation, Chen et al. 2023, arXiv:2306.15595)."""

    factor: float


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
class FrequencyFactors:
    """One divisor per frequency, as GGUF files store Llama 3.1's rule (`rope_freqs`)."""

    divisors: tuple[float, ...]


RopeScaling: TypeAlias = LinearScaling | Llama3Scaling | YarnScaling | FrequencyFactors


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864).

    The first `rotary_dim` values of each head are turned in the pairs (j, j + rotary_dim / 2); the rest pass through.
    """

    theta: float
    rotary_dim: int
    scaling: RopeScaling | None = None


@dataclass(frozen=True)
class LayerConfig:
    """What may differ from one block to the next."""

    rope: RopeConfig | None
    """None: this layer's attention knows no positions."""
    window: int | None = None
    """How many keys a query sees, itself included; None: all that came before."""


@dataclass(frozen=True)
class ModelConfig:
    """Sizes first, without defaults; then the knobs in which model families differ."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    """The most positions the model was made for, prompt and reply together."""
    norm_eps: float
    layers: tuple[LayerConfig, ...]

    activation: Activation = "silu"
    qk_norm: bool = False
    """RMSNorm over each head of the queries and keys, before the rotation."""
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    tie_embeddings: bool = False
    """The output head is the embedding matrix itself."""

    @property
    def num_layers(self) -> int:
        """Number of blocks."""
        return len(self.layers)

    def kv_bytes_per_token(self, bytes_per_value: int) -> int:
        """Bytes the key-value cache takes for each position: 2 (key, value) x layers x kv heads x head size."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * bytes_per_value
