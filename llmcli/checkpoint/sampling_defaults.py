"""Sampling settings that a model's files recommend, under the names of `SamplingParams`."""

from __future__ import annotations

import math
from collections.abc import Mapping

# Our name of each setting, and its names in transformers and llama.cpp; None where they have no such setting.
_KEYS = {
    "temperature": ("temperature", "temp"),
    "top_k": ("top_k", "top_k"),
    "typical_p": ("typical_p", None),
    "top_p": ("top_p", "top_p"),
    "min_p": ("min_p", "min_p"),
    "repeat_penalty": ("repetition_penalty", "penalty_repeat"),
    "repeat_last_n": (None, "penalty_last_n"),
    "xtc_probability": (None, "xtc_probability"),
    "xtc_threshold": (None, "xtc_threshold"),
}
_WHOLE = ("top_k", "repeat_last_n")
_PREFIX = "general.sampling."
# llama.cpp's default order of filters, one letter each. Our order differs only in the temperature.
_SEQUENCE = "edskypmxt"


def folder_sampling_defaults(generation: Mapping[str, object]) -> dict[str, float]:
    """The settings in `generation_config.json`; `do_sample` false means temperature 0."""
    values = {ours: generation.get(theirs) for ours, (theirs, _) in _KEYS.items() if theirs}
    # transformers treats an absent `do_sample` as false, but most files just leave it out.
    return _usable(values | ({"temperature": 0.0} if generation.get("do_sample") is False else {}))


def generation_config(defaults: Mapping[str, float]) -> dict[str, object]:
    """The keys of `generation_config.json` that recommend `defaults`; settings unknown to transformers are left out."""
    theirs = {name: _KEYS[name][0] for name in defaults}
    found: dict[str, object] = {key: defaults[name] for name, key in theirs.items() if key}
    if defaults.get("temperature") == 0:
        # transformers rejects a temperature of 0.
        del found["temperature"]
        found["do_sample"] = False
    return found


def gguf_sampling_defaults(metadata: Mapping[str, object]) -> dict[str, float]:
    """The settings in the metadata of a GGUF file."""
    return _usable({ours: metadata.get(f"{_PREFIX}{theirs}") for ours, (_, theirs) in _KEYS.items() if theirs})


def gguf_sampling_notes(metadata: Mapping[str, object]) -> tuple[str, ...]:
    """Notes about recommendations of a GGUF file that are not followed."""
    notes = []
    if metadata.get(f"{_PREFIX}mirostat") in (1, 2):
        notes.append("Not followed: the file recommends Mirostat sampling, which llm does not support.")
    sequence = metadata.get(f"{_PREFIX}sequence")
    if isinstance(sequence, str) and sequence not in ("", _SEQUENCE):
        notes.append(f"Not followed: the file recommends sampling filters in another order, {sequence!r}.")
    return tuple(notes)


def _usable(values: Mapping[str, object]) -> dict[str, float]:
    """Keep the settings that are finite numbers; ignore others silently."""
    numbers = {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    # GGUF metadata and some JSON files store whole numbers as floats.
    return {name: int(value) if name in _WHOLE else float(value) for name, value in numbers.items()}
