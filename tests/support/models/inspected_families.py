"""One tiny model of each kind of architecture, for tests that must hold for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llmcli
from tests.support.models.newer_cases import NEWER
from tests.support.models.parity_cases import CASES
from tests.support.models.tiny import save, tiny_model

FAMILIES = (
    "llama 2, grouped",
    "llama, biases, wide heads",
    "smollm",
    "mistral, window shorter than the text",
    "qwen2",
    "gemma 2",
    "gemma 3, linear on full layers",
    "olmo 2",
    "granite",
    "cohere",
    "gpt-2",
    "pythia, parallel",
    "phi-2",
    "mixtral",
    "qwen2-moe",
    "deepseek v3",
    "gpt-oss",
    "llama 4",
    "trinity",
    "hyperclovax",
    "a.x k1",
    "bitnet",
    "gemma 4, small",
    "gemma 4, experts",
    "laguna",
)


def family(name: str, folder: Path, **changes: Any) -> tuple[Any, llmcli.LoadedModel]:
    """A tiny model of that name in CASES, with `changes` to its configuration: the reference's, and ours."""
    model_type, overrides = {**CASES, **NEWER}[name]
    model = tiny_model(model_type, **{**overrides, **changes})
    return model, llmcli.load(save(model, folder), dtype="float32", device="cpu")
