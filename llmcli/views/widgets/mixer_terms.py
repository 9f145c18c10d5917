"""Describe what a layer has instead of attention in the words of a model card."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmcli.model.mixer_config import DeltaConfig, Mamba2Config, MambaConfig, MlstmConfig, RglruConfig, Rwkv4Config

if TYPE_CHECKING:
    from llmcli.model.mixer_config import MixerConfig


def mixer_words(mixer: MixerConfig) -> str:
    """Sizes of the network and of its memory."""
    if isinstance(mixer, DeltaConfig):
        return _delta(mixer)
    if isinstance(mixer, Mamba2Config):
        groups = f"{mixer.groups} group{'s' * (mixer.groups > 1)}"
        return (
            f"{mixer.heads} heads of {mixer.head_dim}, {mixer.state} values remembered for each dimension, written "
            f"and read by {groups}, after a convolution over {mixer.conv_width} tokens"
        )
    if isinstance(mixer, MambaConfig):
        return (
            f"{mixer.width} channels, {mixer.state} values remembered for each, "
            f"after a convolution over {mixer.conv_width} tokens"
        )
    if isinstance(mixer, RglruConfig):
        return f"{mixer.width} channels in {mixer.blocks} blocks, after a convolution over {mixer.conv_width} tokens"
    if isinstance(mixer, MlstmConfig):
        return (
            f"{mixer.heads} heads, each remembers {mixer.key_dim} x {mixer.value_dim} values, gates capped at "
            f"{mixer.gate_cap:g}"
        )
    if isinstance(mixer, Rwkv4Config):
        return f"{mixer.width} channels, a decay for each, on mixtures of a token and the one before"
    return f"sees the last {mixer.width} tokens"


def _delta(mixer: DeltaConfig) -> str:
    decay = "a head" if mixer.decay == "head" else "a value of a key"
    return (
        f"{mixer.value_heads} heads, each remembers {mixer.key_dim} x {mixer.value_dim} values, on {mixer.key_heads} "
        f"key heads, a decay for {decay}, after a convolution over {mixer.conv_width} tokens"
    )
