"""Each family as a GGUF file, which states less than a config.json."""

from __future__ import annotations

import math
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

from tests.support.models.newer_cases import NEWER
from tests.support.models.parity_cases import CASES
from tests.support.models.recurrent_cases import RECURRENT
from tests.support.models.tiny import SIZES, tiny_model

# Files of these architectures state neither a sliding window nor a growing RoPE base.
NOT_STORED = {
    "llama, dynamic",
    "mistral, window shorter than the text",
    "ministral, mixed windows",
    "mixtral, window",
    "qwen2, mixed windows",
    "smollm 3, windows",
}
_EVERY_FOURTH = {"num_hidden_layers": 5, "no_rope_layers": None}
# Values that files omit and the architecture implies.
IMPLIED: dict[str, dict[str, Any]] = {
    "gemma 2": {"query_pre_attn_scalar": 8},
    "gemma 3, linear on full layers": {"query_pre_attn_scalar": 8, "num_hidden_layers": 7, "layer_types": None},
    "gemma 3, capped logits": {"num_hidden_layers": 7, "layer_types": None},
    "smollm 3, layers without positions": _EVERY_FOURTH,
    "starcoder 2, window": {"sliding_window": None},
    "cohere 2": {"num_hidden_layers": 5, "layer_types": None},
    "qwen2-moe, windows, some layers dense": {"use_sliding_window": False, "norm_topk_prob": False},
    "qwen3-moe, window": {"use_sliding_window": False, "norm_topk_prob": True},
    "deepseek v2, groups, yarn": {
        "rope_parameters": {**CASES["deepseek v2, groups, yarn"][1]["rope_parameters"], "mscale": 0.9}
    },
    "dots 1": {"sliding_window": None, "layer_types": None},
    "minicpm 3": {
        "dim_model_base": 256,
        "v_head_dim": 8,
        "rope_parameters": {
            **NEWER["minicpm 3"][1]["rope_parameters"],
            "original_max_position_embeddings": SIZES["max_position_embeddings"],
        },
    },
    "hunyuan a13b": {"moe_topk": 2},
    "deepseek v3.2": {"rope_parameters": {**NEWER["deepseek v3.2"][1]["rope_parameters"], "mscale": 0.9}},
    "mistral 4": {"rope_parameters": {**NEWER["mistral 4"][1]["rope_parameters"], "mscale": 0.9}},
    "granite, windows": {"layer_rope_theta": [1e4, 0, 1e4]},
    "granite, windows and experts": {"layer_rope_theta": [0, 1e4, 1e4]},
    "phi-3.5-moe": {
        "router_jitter_noise": 0.01,
        "rope_parameters": {
            **NEWER["phi-3.5-moe"][1]["rope_parameters"],
            "original_max_position_embeddings": 64,
            "short_mscale": math.sqrt(7 / 6),
            "long_mscale": math.sqrt(7 / 6),
        },
    },
    "muse glimmer": {"post_norm_eps": 1e-8},
    "command a+": {"expert_selection_fn": "sigmoid"},
    "trinity": {"num_hidden_layers": 5, "layer_types": None},
    "llama 4": _EVERY_FOURTH,
    "llama 4, no norms of heads": {**_EVERY_FOURTH, "num_local_experts": 128},
}
NEWER_STORED = (
    "glm", "glm 4.5", "glm 4.5 air", "glm 4.7 flash", "seed-oss", "ernie 4.5", "ernie 4.5, experts", "exaone 3.5",
    "youtu", "solar open", "minimax m2", "minicpm 3", "dots 1", "k-exaone", "jais 2", "starcoder", "falcon 7b",
    "falcon 40b", "falcon 11b", "bloom", "mpt", "dbrx", "hunyuan", "hunyuan a13b", "trinity", "apertus",
    "mistral 4", "mellum 2", "hy 3", "granite, windows", "granite, windows and experts", "sarvam, experts",
    "phi-3.5-moe", "bitnet", "laguna", "laguna, a gate for each value", "muse glimmer", "command a+",
    "mimo v2", "deepseek v3.2", "glm 5",
)  # fmt: skip
# The converter writes neither the order of Falcon-H1's norm and gate, nor the epsilon of Falcon Mamba's inner norms,
# nor the size of dense networks that no layer has; it multiplies Falcon-H1's embeddings and head by their factors.
_NO_LIMIT = {"max_position_embeddings": 1 << 20}
RECURRENT_IMPLIED: dict[str, dict[str, Any]] = {
    "mamba": _NO_LIMIT,
    "mamba 2": _NO_LIMIT,
    "falcon mamba": {"mixer_rms_eps": 1e-6, **_NO_LIMIT},
    "granite 4": _NO_LIMIT,
    "granite 4, dense": _NO_LIMIT,
    "nemotron h": _NO_LIMIT,
    "falcon h1": dict.fromkeys(("embedding_multiplier", "lm_head_multiplier"), 1.0),
    "falcon h1, normalized": {"mamba_norm_before_gate": False},
    "lfm 2": {"conv_bias": False},
    "nemotron 3": {"intermediate_size": 24, **_NO_LIMIT},
    "nemotron 3, latent": {"intermediate_size": 24, **_NO_LIMIT},
}
RECURRENT_STORED = (
    "mamba", "falcon mamba", "mamba 2", "granite 4", "granite 4, dense", "bamba", "falcon h1", "falcon h1, normalized",
    "nemotron h", "nemotron 3", "nemotron 3, latent", "jamba", "kimi linear",
    "qwen 3.5", "qwen 3.5, experts", "qwen 3 next", "lfm 2", "lfm 2, experts",
)  # fmt: skip
STORED = [*(name for name in CASES if name not in NOT_STORED), *NEWER_STORED, *RECURRENT_STORED]


def settings(name: str) -> dict[str, Any]:
    return {**of_case(name)[1], **IMPLIED.get(name, {}), **RECURRENT_IMPLIED.get(name, {})}


def of_case(name: str) -> tuple[str, dict[str, Any]]:
    """The model type of a case, and its changes to the tiny configuration."""
    return {**CASES, **NEWER, **RECURRENT}[name]


def made(name: str, **overrides: Any) -> Any:
    return tiny_model(of_case(name)[0], **{**settings(name), **overrides})


def quantized(kind: Kind, part: str = "") -> Any:
    """Quantize matrices whose rows are whole blocks to `kind`, except routers."""

    def kind_of(name: str, values: np.ndarray) -> Kind:
        fits = values.ndim > 1 and values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0
        return kind if fits and part in name and "ffn_gate_inp" not in name else Kind.F32

    return kind_of
