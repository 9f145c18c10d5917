"""Model families of Hugging Face checkpoints: how each one's `config.json` reads as a `ModelConfig`.

A family is one entry of `FAMILIES`: the values its configuration leaves out, and the few ways in which it departs from
Llama. Defaults are those of transformers 5.23's configuration classes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import get_args

from llmcli.checkpoint.config_keys import ConfigKeys
from llmcli.checkpoint.rope_keys import rope_config
from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.model.config import Activation, LayerConfig, ModelConfig

FULL, SLIDING = "full_attention", "sliding_attention"


def _all_full(keys: ConfigKeys, layers: int) -> list[str]:
    return [FULL] * layers


def _all_sliding(keys: ConfigKeys, layers: int) -> list[str]:
    """Mistral: one window for every layer, if there is one."""
    return [FULL if keys.optional_integer("sliding_window") is None else SLIDING] * layers


def _upper_layers_sliding(keys: ConfigKeys, layers: int) -> list[str]:
    """Qwen 2 and 3: a window from layer `max_window_layers` on, if `use_sliding_window` says so."""
    if not keys.flag("use_sliding_window") or keys.optional_integer("sliding_window") is None:
        return [FULL] * layers
    first = keys.integer("max_window_layers", minimum=0)
    return [SLIDING if index >= first else FULL for index in range(layers)]


@dataclass(frozen=True)
class Family:
    """What a family adds to, or changes of, the Llama pattern."""

    defaults: Mapping[str, object]
    layer_types: Callable[[ConfigKeys, int], list[str]] = _all_full
    qk_norm: bool = False


_LLAMA = {"rope_theta": 1e4, "rms_norm_eps": 1e-6, "hidden_act": "silu", "max_position_embeddings": 2048}
_QWEN = {**_LLAMA, "max_position_embeddings": 32768, "sliding_window": 4096, "max_window_layers": 28}

FAMILIES: dict[str, Family] = {
    # Llama 1, 2, 3, 3.1, 3.2, and everything that arrives as one: SmolLM and SmolLM2, Yi, TinyLlama, DeepSeek-LLM.
    "llama": Family(_LLAMA),
    "mistral": Family(
        {**_LLAMA, "num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
        layer_types=_all_sliding,
    ),
    "qwen2": Family(_QWEN, layer_types=_upper_layers_sliding),
    "qwen3": Family({**_QWEN, "head_dim": 128}, layer_types=_upper_layers_sliding, qk_norm=True),
}

_ACTIVATION_NAMES: dict[str, Activation] = {
    **{name: name for name in get_args(Activation)},
    "swish": "silu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def model_config(keys: ConfigKeys, tensor_names: Collection[str]) -> ModelConfig:
    """The model that a `config.json` describes.

    `tensor_names` are the checkpoint's tensors under the names of our own parameters: which biases exist, and whether
    the output head is its own matrix, is what the file holds, not what the configuration claims.

    Raises:
        UnsupportedModelError: an unknown `model_type`, activation, kind of layer or rotation.
        CheckpointError: missing or contradictory sizes.
    """
    model_type = keys.text("model_type")
    family = FAMILIES.get(model_type or "")
    if family is None:
        raise UnsupportedModelError(
            f"{keys.path} describes a model of type {model_type!r}, which is not supported; "
            f"supported are {', '.join(sorted(FAMILIES))}."
        )
    keys = ConfigKeys(keys.values, keys.path, family.defaults)
    hidden, heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
    kv_heads = keys.optional_integer("num_key_value_heads") or heads
    head_dim = keys.optional_integer("head_dim")
    if head_dim is None:
        if hidden % heads:
            raise CheckpointError(f"{keys.path}: hidden_size {hidden} is not a multiple of {heads} attention heads.")
        head_dim = hidden // heads
    if heads % kv_heads:
        raise CheckpointError(f"{keys.path}: {heads} attention heads cannot share {kv_heads} key-value heads evenly.")
    activation = _ACTIVATION_NAMES.get(keys.text("hidden_act") or "")
    if activation is None:
        raise UnsupportedModelError(
            f"{keys.path} asks for the activation {keys.get('hidden_act')!r}, which is unknown."
        )
    tied = "lm_head.weight" not in tensor_names
    if tied and keys.get("tie_word_embeddings") is False:
        raise CheckpointError(f"{keys.path} says the output head is a matrix of its own, but no file holds one.")
    context_length = keys.integer("max_position_embeddings")
    return ModelConfig(
        vocab_size=keys.integer("vocab_size"),
        hidden_size=hidden,
        intermediate_size=keys.integer("intermediate_size"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        context_length=context_length,
        norm_eps=keys.number("rms_norm_eps"),
        layers=_layers(keys, family, head_dim, context_length),
        activation=activation,
        qk_norm=family.qk_norm,
        qkv_bias="layers.0.self_attn.q_proj.bias" in tensor_names,
        o_bias="layers.0.self_attn.o_proj.bias" in tensor_names,
        mlp_bias="layers.0.mlp.down_proj.bias" in tensor_names,
        tie_embeddings=tied,
    )


def _layers(keys: ConfigKeys, family: Family, head_dim: int, context_length: int) -> tuple[LayerConfig, ...]:
    count = keys.integer("num_hidden_layers")
    if count > 10_000:
        raise CheckpointError(f"{keys.path} asks for {count} layers, which no model has.")
    # Listed in the file by later versions; before that, a rule of the family.
    kinds = keys.get("layer_types") or family.layer_types(keys, count)
    if not isinstance(kinds, list) or len(kinds) != count:
        raise CheckpointError(f"{keys.path}: layer_types must list {count} layers, as num_hidden_layers says.")
    unknown = sorted({str(kind) for kind in kinds} - {FULL, SLIDING})
    if unknown:
        raise UnsupportedModelError(f"{keys.path} has layers of type {', '.join(unknown)}, which are not supported.")
    ropes = {
        kind: rope_config(keys, head_dim=head_dim, context_length=context_length, layer_type=kind)
        for kind in sorted(set(kinds))
    }
    window = keys.integer("sliding_window") if SLIDING in kinds else None
    return tuple(LayerConfig(rope=ropes[kind], window=window if kind == SLIDING else None) for kind in kinds)
