"""Sizes and names of what layers have instead of attention."""

from __future__ import annotations

import pytest

from llmcli.model.mixer_config import DeltaConfig, Mamba2Config, MambaConfig, MixerConfig, ShortConvConfig, mixer_name


@pytest.mark.parametrize(
    ("mixer", "tail", "sums", "name"),
    [
        # Qwen3.5: three inputs of 2 * 16 * 128 + 32 * 128 channels; 2 MiB of sums in float32.
        (DeltaConfig(16, 32, 128, 128, 4), 3 * 8192, 2**19, "gated delta net"),
        (DeltaConfig(4, 4, 8, 8, 4, decay="channel"), 3 * 96, 256, "Kimi delta attention"),
        # Codestral Mamba: 4 MiB.
        (Mamba2Config(128, 64, 8, 128, 4), 3 * (8192 + 2048), 2**20, "Mamba-2"),
        (MambaConfig(5120, 16, 160, 4), 3 * 5120, 81920, "Mamba"),
        (ShortConvConfig(3), 0, 0, "short convolution"),
    ],
    ids=str,
)
def test_states_have_the_sizes_of_published_models(mixer: MixerConfig, tail: int, sums: int, name: str) -> None:
    assert (mixer.tail_values, mixer.sum_values, mixer_name(mixer)) == (tail, sums, name)
