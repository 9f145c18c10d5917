"""Model families of GGUF files: how their metadata reads as a `ModelConfig`, and what their tensors are called.

Rules that are not in the file (window patterns, row order) belong to the architecture and are data here, as
llama.cpp's converter and loader have them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from llmcli.checkpoint.gguf import GGUFHeader
from llmcli.checkpoint.rope_keys import yarn_mscale
from llmcli.checkpoint.sources import PairedRows, Source
from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.model import (
    FrequencyFactors,
    LayerConfig,
    LinearScaling,
    ModelConfig,
    RopeConfig,
    RopeScaling,
    YarnScaling,
)


@dataclass(frozen=True)
class Architecture:
    """What a value of `general.architecture` implies beyond the metadata."""

    interleaved_rows: bool = False
    """Rows of q and k are stored in the pair order of the original Llama code."""
    qk_norm: bool = False


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(interleaved_rows=True),
    "qwen2": Architecture(),
    "qwen3": Architecture(qk_norm=True),
}

_TENSOR_NAMES = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_ROPE_FREQUENCIES = "rope_freqs.weight"


def gguf_source(header: GGUFHeader, config: ModelConfig) -> Callable[[str], Source]:
    """The function from the name of one of our parameters to its tensor in the file."""
    interleaved = architecture_of(header).interleaved_rows

    def source(parameter: str) -> Source:
        layer, name, kind = re.fullmatch(r"(?:layers\.(\d+)\.)?(.+)\.(weight|bias)", parameter).groups()  # type: ignore[union-attr]
        block = "" if layer is None else f"blk.{layer}."
        permuted = interleaved and name in ("self_attn.q_proj", "self_attn.k_proj")
        return Source(f"{block}{_TENSOR_NAMES[name]}.{kind}", PairedRows(config.head_dim) if permuted else None)

    return source


def is_ignored_gguf_tensor(name: str) -> bool:
    """Tensors whose content is read elsewhere, as part of the configuration."""
    return name == _ROPE_FREQUENCIES


def architecture_of(header: GGUFHeader) -> Architecture:
    """The entry of `ARCHITECTURES` for this file; `UnsupportedModelError` for one we do not know."""
    name = header.get_str("general.architecture")
    if name not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"{header.path} describes a model of architecture {name!r}, which is not supported; "
            f"supported are {', '.join(sorted(ARCHITECTURES))}."
        )
    return ARCHITECTURES[name]


def gguf_model_config(header: GGUFHeader, rope_frequencies: tuple[float, ...] | None) -> ModelConfig:
    """The model that a GGUF file describes; `rope_frequencies` are the values of its `rope_freqs` tensor, if any.

    Raises:
        UnsupportedModelError: an unknown architecture or rotation, or a mixture of experts.
        CheckpointError: missing or contradictory sizes.
    """
    architecture = architecture_of(header)
    prefix = header.get_str("general.architecture")

    def size(key: str, default: int | None = None) -> int:
        value = header.get_int(f"{prefix}.{key}", default)
        if not 0 < value < 1 << 31:
            raise CheckpointError(f"{header.path} has {prefix}.{key} = {value}, which no model has.")
        return value

    if header.get_int(f"{prefix}.expert_count", 0) > 0:
        raise UnsupportedModelError(f"{header.path} is a mixture of experts, which is not supported yet.")
    hidden, heads = size("embedding_length"), size("attention.head_count")
    kv_heads = size("attention.head_count_kv", heads)
    head_dim = size("attention.key_length", max(hidden // heads, 1))
    if heads % kv_heads:
        raise CheckpointError(f"{header.path}: {heads} attention heads cannot share {kv_heads} key-value heads evenly.")
    if size("attention.value_length", head_dim) != head_dim:
        raise UnsupportedModelError(f"{header.path} has values of another size than its keys, which is not supported.")
    embedding = header.tensors.get("token_embd.weight")
    vocabulary = embedding.shape[0] if embedding is not None and embedding.shape else 0
    context_length, rotary_dim = size("context_length"), size("rope.dimension_count", head_dim)
    if rotary_dim > head_dim or rotary_dim % 2:
        raise CheckpointError(f"{header.path} asks for a rotation of {rotary_dim} of {head_dim} values.")
    if rope_frequencies is not None and len(rope_frequencies) != rotary_dim // 2:
        raise CheckpointError(
            f"{header.path}: {_ROPE_FREQUENCIES} has {len(rope_frequencies)} values, {rotary_dim // 2} are needed."
        )
    factors = None if rope_frequencies is None else FrequencyFactors(rope_frequencies)
    scaling = factors or _scaling(header, prefix, context_length)
    rope = RopeConfig(header.get_float(f"{prefix}.rope.freq_base", 10000.0), rotary_dim, scaling)
    return ModelConfig(
        vocab_size=size("vocab_size", vocabulary),
        hidden_size=hidden,
        intermediate_size=size("feed_forward_length"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        context_length=context_length,
        norm_eps=header.get_float(f"{prefix}.attention.layer_norm_rms_epsilon"),
        layers=(LayerConfig(rope=rope),) * min(size("block_count"), 10_000),
        qk_norm="head" if architecture.qk_norm else None,
        qkv_bias="blk.0.attn_q.bias" in header.tensors,
        o_bias="blk.0.attn_output.bias" in header.tensors,
        mlp_bias="blk.0.ffn_down.bias" in header.tensors,
        tie_embeddings="output.weight" not in header.tensors,
    )


def rope_frequencies_tensor(header: GGUFHeader) -> str | None:
    """Name of the tensor with one divisor per frequency (Llama 3.1's scaling), if the file has it."""
    return _ROPE_FREQUENCIES if _ROPE_FREQUENCIES in header.tensors else None


def _scaling(header: GGUFHeader, prefix: str, context_length: int) -> RopeScaling | None:
    kind = header.get_str(f"{prefix}.rope.scaling.type", "none")
    if kind == "none":
        legacy = header.get_float(f"{prefix}.rope.scale_linear", 1.0)
        return None if legacy == 1.0 else LinearScaling(legacy)
    factor = header.get_float(f"{prefix}.rope.scaling.factor", 1.0)
    if factor <= 0:
        raise CheckpointError(f"{header.path} has a rotary scaling factor of {factor}; it must be positive.")
    if kind == "linear":
        return LinearScaling(factor)
    if kind == "yarn":
        return YarnScaling(
            factor=factor,
            original_context=header.get_int(f"{prefix}.rope.scaling.original_context_length", context_length),
            beta_fast=header.get_float(f"{prefix}.rope.scaling.yarn_beta_fast", 32.0),
            beta_slow=header.get_float(f"{prefix}.rope.scaling.yarn_beta_slow", 1.0),
            attention_factor=yarn_mscale(factor, 1.0) * header.get_float(f"{prefix}.rope.scaling.attn_factor", 1.0),
            truncate=True,
        )
    raise UnsupportedModelError(
        f"{header.path} asks for {kind!r} rotary position scaling; supported are none, linear and yarn."
    )
