"""Sampling settings that a model's makers recommend, under the names of `SamplingParams`."""

from __future__ import annotations

import math
from collections.abc import Mapping

# Our name of each setting, and what transformers and llama.cpp call it.
_KEYS = {
    "temperature": ("temperature", "temp"),
    "top_k": ("top_k", "top_k"),
    "top_p": ("top_p", "top_p"),
    "min_p": ("min_p", "min_p"),
    "repeat_penalty": ("repetition_penalty", "penalty_repeat"),
}


def folder_sampling_defaults(generation: Mapping[str, object]) -> dict[str, float]:
    """What `generation_config.json` recommends; without sampling (`do_sample` false) that is temperature 0."""
    values = {ours: generation.get(theirs) for ours, (theirs, _) in _KEYS.items()}
    # In transformers an absent `do_sample` means the same, but most files leave it out without meaning anything.
    return _usable(values | ({"temperature": 0.0} if generation.get("do_sample") is False else {}))


def gguf_sampling_defaults(metadata: Mapping[str, object]) -> dict[str, float]:
    """What the metadata of a GGUF file recommend."""
    return _usable({ours: metadata.get(f"general.sampling.{theirs}") for ours, (_, theirs) in _KEYS.items()})


def _usable(values: Mapping[str, object]) -> dict[str, float]:
    """The recommended settings that are usable numbers; others are none of the user's concern."""
    numbers = {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    # GGUF metadata and some JSON files write whole numbers as floats.
    return {name: int(value) if name == "top_k" else float(value) for name, value in numbers.items()}
