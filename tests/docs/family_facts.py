"""What the table of families in `models.md` states of each, read from the code."""

from __future__ import annotations

import json
from pathlib import Path

from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.checkpoint.gguf.families import ARCHITECTURES, Architecture
from llmcli.checkpoint.huggingface.config import family_config, model_config
from llmcli.checkpoint.huggingface.names import TensorNames
from llmcli.kernels.cpu.support import unsupported
from tests.support.models.newer_cases import NEWER
from tests.support.models.parity_cases import CASES
from tests.support.models.recurrent_cases import RECURRENT
from tests.support.models.tiny import SIZES

# Architectures that stand for one of several families, as their metadata say.
CHOSEN = {
    "llama": ("llama", "mixtral"),
    "olmo2": ("olmo2", "olmo3"),
    "granitehybrid": ("granitemoehybrid", "bamba"),
    "mamba": ("mamba", "falcon_mamba"),
    "deepseek2": ("deepseek_v2", "deepseek_v3", "youtu"),
    "granite-swa": ("granite_swa", "granitemoe_swa"),
}
# Families whose converter writes another family's architecture.
WRITTEN_AS = {
    "mistral": "llama", "ministral": "llama", "kimi_k2": "deepseek2", "glm4_moe_lite": "deepseek2",
    "solar_open": "glm4moe", "internlm3": "llama", "iquestcoder": "llama",
    "granitemoeshared": "granitemoe",
    "granitemoe": "granitemoe", "granite": "granite", "gemma4_unified_text": "gemma4",
}  # fmt: skip
# Families without a tiny model of their own, and the family with the same entry or computation.
SAME = {
    "grok-1": "mixtral",
    "kimi_k2": "deepseek_v3", "phi4mm": "phi4_multimodal", "qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3", "qwen3_vl_moe_text": "qwen3_moe", "glm4v_text": "glm4", "glm4v_moe_text": "glm4_moe",
}  # fmt: skip


def gguf_names(family: str) -> list[str]:
    """The architectures of GGUF files that hold models of a family."""
    found = {name for name, entry in ARCHITECTURES.items() if family in _families(name, entry)}
    return sorted(found | {WRITTEN_AS[family]} if family in WRITTEN_AS else found)


def _families(name: str, entry: Architecture) -> tuple[str, ...]:
    return (entry.family,) if isinstance(entry.family, str) else CHOSEN[name]


def kernel_of(family: str) -> str:
    """Whether the C kernel runs the family's tiny model, or the readable model."""
    from transformers import AutoConfig

    family = SAME.get(family, family)
    overrides = next(found for model_type, found in {**CASES, **NEWER, **RECURRENT}.values() if model_type == family)
    config = AutoConfig.for_model(family, **{**SIZES, **overrides})
    keys = ConfigKeys(json.loads(config.to_json_string(use_diff=False)), Path("config.json"))
    return "C" if unsupported(model_config(family_config(keys), TensorNames(["lm_head.weight"], {}))) is None else "-"
