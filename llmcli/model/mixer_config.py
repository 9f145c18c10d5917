"""What a layer can have instead of attention, as data: networks that remember the text in a state of fixed size.

A state has two parts: the last inputs of a short convolution (the tail), and a sum over the whole text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True)
class DeltaConfig:
    """A gated delta net (Yang et al. 2024, arXiv:2412.06464), or Kimi's delta attention (arXiv:2510.26692)."""

    key_heads: int
    value_heads: int
    """Each key head is shared by `value_heads / key_heads` of these."""
    key_dim: int
    value_dim: int
    conv_width: int
    """Tokens that the convolution over queries, keys and values mixes."""
    decay: Literal["head", "channel"] = "head"
    """The sum of a head fades by one factor for each token, or by one for each of the key's values."""
    safe_decay: float | None = None
    """The logarithms of the factors are this number times a sigmoid; None: they are minus a softplus."""
    beta_scale: float = 1.0
    """Factor on the strength with which a token replaces what the sum has for its key."""
    gate: Literal["silu", "sigmoid"] = "silu"
    """Activation of the gate on the normalized output."""
    gate_rank: int | None = None
    """Size between the two projections that make decays and gates each; None: they have one projection."""
    norm_eps: float | None = None
    """Of the norm of the output; None: that of the model's other norms."""
    late_rounding: bool = False
    """Round the output to the activations' type after the weight of its norm and the gate; so it is with a decay for
    each channel."""
    tiled: bool = False
    """Value head h belongs to key head h modulo `key_heads`; otherwise neighbors share a key head."""

    @property
    def tail_values(self) -> int:
        """Numbers in the tail."""
        channels = 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim
        return (self.conv_width - 1) * channels

    @property
    def sum_values(self) -> int:
        """Numbers in the sum."""
        return self.value_heads * self.key_dim * self.value_dim

    def projected(self, hidden: int) -> int:
        """Values that are projected from a token, of `hidden` values: queries, keys, values and gates."""
        return 2 * (self.key_heads * self.key_dim + self.value_heads * self.value_dim)


@dataclass(frozen=True)
class Mamba2Config:
    """A Mamba-2 network (Dao & Gu 2024, arXiv:2405.21060)."""

    heads: int
    head_dim: int
    groups: int
    """Groups of heads that share what is written into the state and read from it."""
    state: int
    """Values that the state keeps for each of a head's dimensions."""
    conv_width: int
    conv_bias: bool = True
    bias: bool = False
    """The projections have biases."""
    norm: Literal["gate_first", "norm_first"] | None = "gate_first"
    """Whether the output is gated before it is normalized or after; None: it is gated alone."""
    min_step: float = 0.0
    max_step: float | None = None
    """Limits of the step size, which says how much of the state a token replaces; None: no upper limit."""

    @property
    def tail_values(self) -> int:
        """Numbers in the tail."""
        return (self.conv_width - 1) * (self.heads * self.head_dim + 2 * self.groups * self.state)

    @property
    def sum_values(self) -> int:
        """Numbers in the sum."""
        return self.heads * self.head_dim * self.state

    def projected(self, hidden: int) -> int:
        """Values that are projected from a token, of `hidden` values: inputs, gates, and what writes and reads."""
        return 2 * (self.heads * self.head_dim + self.groups * self.state) + self.heads


@dataclass(frozen=True)
class MambaConfig:
    """A Mamba network (Gu & Dao 2023, arXiv:2312.00752)."""

    width: int
    """Channels, each with a separate state."""
    state: int
    """Values of a channel's state."""
    step_rank: int
    """Size of what the step sizes of all channels are made from."""
    conv_width: int
    conv_bias: bool = True
    bias: bool = False
    """The projections of input and output have biases."""
    norms: Literal["weights", "weightless"] | None = None
    """Whether step size, what is written and what is read are normalized, with learned weights or without."""
    norms_eps: float = 1e-6
    """That of norms without weights; the others have the model's."""

    @property
    def tail_values(self) -> int:
        """Numbers in the tail."""
        return (self.conv_width - 1) * self.width

    @property
    def sum_values(self) -> int:
        """Numbers in the sum."""
        return self.width * self.state

    def projected(self, hidden: int) -> int:
        """Values that are projected from a token, of `hidden` values: inputs and gates."""
        return 2 * self.width


@dataclass(frozen=True)
class RglruConfig:
    """A real-gated linear recurrent unit (Griffin, arXiv:2402.19427)."""

    width: int
    """Channels, each with a state of one value."""
    blocks: int
    """Blocks of channels; the gates of a channel are made from its block."""
    conv_width: int

    @property
    def tail_values(self) -> int:
        """Numbers in the tail."""
        return (self.conv_width - 1) * self.width

    @property
    def sum_values(self) -> int:
        """Numbers in the sum."""
        return self.width

    def projected(self, hidden: int) -> int:
        """Values that are projected from a token, of `hidden` values: inputs, and the gate on the output."""
        return 2 * self.width


@dataclass(frozen=True)
class MlstmConfig:
    """An mLSTM cell (xLSTM, arXiv:2405.04517)."""

    heads: int
    key_dim: int
    value_dim: int
    gate_cap: float
    """Input and forget gates `z` become `cap * tanh(z / cap)`."""
    eps: float
    """Added to what the output is divided by."""

    @property
    def tail_values(self) -> int:
        """Numbers in the tail: none, as there is no convolution."""
        return 0

    @property
    def sum_values(self) -> int:
        """Numbers in the sum: that of values, that of keys, and the scale of both."""
        return self.heads * self.key_dim * (self.value_dim + 2)

    def projected(self, hidden: int) -> int:
        """Values that are projected from a token, of `hidden` values: queries, keys, values and gates."""
        return 2 * self.heads * (self.key_dim + self.value_dim + 1)


@dataclass(frozen=True)
class Rwkv4Config:
    """Time mixing of RWKV-4 (arXiv:2305.13048)."""

    width: int
    """Channels, each with a separate fading average."""
    hidden: int
    """Size of the residual stream, of whose last token the tail is a copy."""

    @property
    def tail_values(self) -> int:
        """Numbers in the tail."""
        return self.hidden

    @property
    def sum_values(self) -> int:
        """Numbers in the sum: numerator, denominator, and the largest exponent."""
        return 3 * self.width

    def projected(self, hidden: int) -> int:
        """Values that are projected from a token, of `hidden` values: keys, values and gates."""
        return 3 * self.width


@dataclass(frozen=True)
class ShortConvConfig:
    """A gated short convolution (LFM2, arXiv:2511.23404).

    Its inputs are cached by position, as keys with a window are: it has no state.
    """

    width: int
    """Tokens that it mixes."""
    bias: bool = False
    """Projections and convolution have biases."""

    @property
    def tail_values(self) -> int:
        """Numbers in the tail: none."""
        return 0

    @property
    def sum_values(self) -> int:
        """Numbers in the sum: none."""
        return 0

    def projected(self, hidden: int) -> int:
        """Values that are projected from a token, of `hidden` values: inputs and two gates."""
        return 3 * hidden


MixerConfig: TypeAlias = (
    DeltaConfig | Mamba2Config | MambaConfig | RglruConfig | MlstmConfig | Rwkv4Config | ShortConvConfig
)

_NAMES: dict[type, str] = {
    DeltaConfig: "gated delta net",
    Mamba2Config: "Mamba-2",
    MambaConfig: "Mamba",
    RglruConfig: "RG-LRU",
    MlstmConfig: "mLSTM",
    Rwkv4Config: "RWKV-4 time mixing",
    ShortConvConfig: "short convolution",
}


_MODULES: dict[type, str] = {
    DeltaConfig: "linear_attn",
    Mamba2Config: "mamba",
    MambaConfig: "mamba",
    RglruConfig: "rglru",
    MlstmConfig: "mlstm",
    Rwkv4Config: "time_mixing",
    ShortConvConfig: "conv",
}


def mixer_module(mixer: MixerConfig | None) -> str:
    """The name of a block's module for it, as in checkpoints; None stands for attention."""
    return "self_attn" if mixer is None else _MODULES[type(mixer)]


def mixer_name(mixer: MixerConfig) -> str:
    """The field's name for it, to be shown to users."""
    is_channel = isinstance(mixer, DeltaConfig) and mixer.decay == "channel"
    return "Kimi delta attention" if is_channel else _NAMES[type(mixer)]
