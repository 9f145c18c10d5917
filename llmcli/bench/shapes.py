"""Shapes of published models, to measure speed without their weights.

Speed does not depend on the values of the weights, only on their number and format. Each shape has the sizes in the
`config.json` of the published model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.checkpoint.huggingface.config import family_config, model_config
from llmcli.checkpoint.huggingface.names import TensorNames
from llmcli.errors import UsageError
from llmcli.model import ModelConfig

RANDOM = "random weights"
"""The format name of models with random weights."""


def _sizes(
    model_type: str,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    kv_heads: int,
    vocabulary: int,
    **more: Any,
) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        **more,
    }


def _llama_3(factor: float) -> dict[str, Any]:
    scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 8192
    return {"max_position_embeddings": 131072, "rope_theta": 500000.0, "rope_scaling": scaling}


SHAPES: Mapping[str, Mapping[str, Any]] = {
    "smollm2-135m": _sizes(
        "llama", 576, 1536, 30, 9, 3, 49152,
        max_position_embeddings=8192, rope_theta=100000.0, tie_word_embeddings=True,
    ),
    "llama-3.2-1b": _sizes("llama", 2048, 8192, 16, 32, 8, 128256, **_llama_3(32.0), tie_word_embeddings=True),
    "llama-3.2-3b": _sizes("llama", 3072, 8192, 28, 24, 8, 128256, **_llama_3(32.0), tie_word_embeddings=True),
    "llama-3.1-8b": _sizes("llama", 4096, 14336, 32, 32, 8, 128256, **_llama_3(8.0)),
    "mistral-7b": _sizes(
        "mistral", 4096, 14336, 32, 32, 8, 32768,
        max_position_embeddings=32768, rope_theta=1000000.0, sliding_window=None,
    ),
    "qwen3-8b": _sizes(
        "qwen3", 4096, 12288, 36, 32, 8, 151936,
        head_dim=128, max_position_embeddings=40960, rope_theta=1000000.0, rms_norm_eps=1e-6,
    ),
    # Two of the 32 layers: enough to measure the cost of a layer, and small enough for most machines.
    "mixtral-8x7b-2layers": _sizes(
        "mixtral", 4096, 14336, 2, 32, 8, 32000,
        num_local_experts=8, num_experts_per_tok=2, max_position_embeddings=32768, rope_theta=1000000.0,
        sliding_window=None,
    ),
}  # fmt: skip
"""Configurations by shape name, with the keys of Hugging Face's `config.json`."""


def shape_config(name: str) -> ModelConfig:
    """The configuration of a shape.

    Raises:
        UsageError: there is no shape of this name.
    """
    if name not in SHAPES:
        raise UsageError(f"There is no shape called {name!r}; --shape takes {', '.join(SHAPES)}.")
    return configured(SHAPES[name])


def configured(values: Mapping[str, Any]) -> ModelConfig:
    """The configuration of a model without files and without biases, from the keys of a `config.json`."""
    head = [] if values["tie_word_embeddings"] else ["lm_head.weight"]
    return model_config(family_config(ConfigKeys(values, Path(RANDOM))), TensorNames(head, {}))
