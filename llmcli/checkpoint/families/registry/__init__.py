"""Model families of Hugging Face checkpoints, as data: one entry for each `model_type`, in one file for each lineage.

An entry holds the values that the family's `config.json` leaves out, and how the family differs from Llama.
Defaults are those of transformers 5.24's configuration classes.
"""

from __future__ import annotations

from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.registry import (
    classic,
    cohere,
    deepseek,
    exaone,
    gated,
    gemma,
    glm,
    gpt,
    granite,
    llama,
    microsoft,
    mistral,
    olmo,
    others,
    qwen,
    recurrent,
    routed,
)

_LINEAGES = (
    classic,
    cohere,
    deepseek,
    exaone,
    gated,
    gemma,
    glm,
    gpt,
    granite,
    llama,
    microsoft,
    mistral,
    olmo,
    others,
    qwen,
    recurrent,
    routed,
)

FAMILIES: dict[str, Family] = {name: family for lineage in _LINEAGES for name, family in lineage.FAMILIES.items()}
