"""Recommended sampling settings, in the formats of transformers and llama.cpp."""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast

import pytest

from llmcli.checkpoint.gguf.header import GGUFHeader, GGUFValue
from llmcli.checkpoint.sampling_defaults import (
    folder_sampling_defaults,
    generation_config,
    gguf_sampling_defaults,
    gguf_sampling_notes,
)
from llmcli.checkpoint.text_assets import gguf_text_parts
from tests.support.text.tokenizers import byte_level_backend, gguf_of_byte_level


def test_every_sampling_key_of_gguf_is_followed_or_noted() -> None:
    from gguf import Keys

    keys = {value for name, value in vars(Keys.General).items() if name.startswith("SAMPLING_")}
    numbers = dict.fromkeys(keys, 1)
    found = gguf_sampling_defaults(numbers)
    assert found == dict.fromkeys(
        (
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "repeat_penalty",
            "repeat_last_n",
            "xtc_probability",
            "xtc_threshold",
        ),
        1,
    )
    assert all(isinstance(found[name], int) for name in ("top_k", "repeat_last_n"))
    # The other keys: Mirostat with its two numbers, and the order of filters.
    assert len(keys) == 8 + 3 + 1


@pytest.mark.parametrize(
    ("values", "notes"),
    [
        ({}, []),
        ({"mirostat": 0, "sequence": "edskypmxt"}, []),
        ({"mirostat": 2, "mirostat_tau": 5.0}, ["Mirostat"]),
        ({"mirostat": 1, "sequence": "tkp"}, ["Mirostat", "'tkp'"]),
    ],
)
def test_recommendations_that_are_not_followed_are_noted(values: dict[str, object], notes: list[str]) -> None:
    sampling = {f"general.sampling.{name}": value for name, value in values.items()}
    found = gguf_sampling_notes(sampling)
    assert len(found) == len(notes)
    assert all(part in note for part, note in zip(notes, found, strict=True))
    metadata = cast("dict[str, GGUFValue]", gguf_of_byte_level(byte_level_backend(), "gpt-2") | sampling)
    told = gguf_text_parts(GGUFHeader(Path("m.gguf"), metadata, 3, {}, 32)).notes
    assert [note for note in told if note.startswith("Not followed: the file recommends")] == list(found)


def test_values_of_other_types_are_ignored() -> None:
    names = ("temp", "top_k", "top_p", "xtc_probability")
    values = dict(zip(names, ("1", True, math.nan, [0.5]), strict=True))
    assert gguf_sampling_defaults({f"general.sampling.{name}": value for name, value in values.items()}) == {}


def test_written_recommendations_are_read_back() -> None:
    defaults = {"temperature": 0.5, "top_k": 7, "typical_p": 0.9, "repeat_penalty": 1.1, "xtc_probability": 0.5}
    written = generation_config(defaults)
    assert written == {"temperature": 0.5, "top_k": 7, "typical_p": 0.9, "repetition_penalty": 1.1}
    assert folder_sampling_defaults(written) == {
        name: value for name, value in defaults.items() if name != "xtc_probability"
    }
    assert generation_config({"temperature": 0.0, "top_p": 0.9}) == {"do_sample": False, "top_p": 0.9}
