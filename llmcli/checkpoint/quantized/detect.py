"""Detect the quantization method of a Hugging Face folder, and present its weights as plain tensors.

From `quantization_config` only facts are used that the tensors do not show: group sizes, block sizes, numbers of bits.
The tensors themselves show which modules are quantized.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.checkpoint.files.weight_file import shown
from llmcli.checkpoint.quantized.base import TensorPool
from llmcli.checkpoint.quantized.bitnet import collapse_bitnet, round_bitnet
from llmcli.checkpoint.quantized.bitsandbytes import collapse_bitsandbytes
from llmcli.checkpoint.quantized.compressed_tensors import block_size, collapse_compressed, refused_variant
from llmcli.checkpoint.quantized.fp8_fp4 import (
    PER_COLUMN,
    PER_ROW,
    WHOLE,
    collapse_fp4_experts,
    collapse_fp8,
    collapse_modelopt_nvfp4,
    collapse_mxfp4,
)
from llmcli.checkpoint.quantized.gptq_awq import GPTQ_BITS, collapse_awq, collapse_gptq
from llmcli.checkpoint.quantized.mlx import collapse_mlx
from llmcli.checkpoint.quantized.settings import quantization_settings
from llmcli.checkpoint.tensors.tensor_info import StoredTensor, TensorInfo
from llmcli.errors import CheckpointError, UnsupportedModelError

# Scales of quantized activations and caches, which are not quantized here: results are slightly more exact.
# `altup.correct_output_scale` of Gemma 3n is a weight.
_ACTIVATION_PARTS = re.compile(
    r"(?!.*\.altup\.).*[._]((input|output|activation|prob_output)_(scale|zero_point|global_scale)|input_scale_ub|qscale_act"
    r"|[qkv]_(scale|zero_point))"
)
# These are scalars or one per channel; a larger tensor of such a name is something else.
_LARGEST_ACTIVATION_PART = 1 << 20
# Parts of a quantized weight; one that remains means that other parts are missing.
_WEIGHT_PARTS = re.compile(
    r".*(\.(qweight|qscale_weight|qzeros|scales|biases|g_idx|SCB|weight_(packed|shape|zero_point|g_idx|global_scale|scale|scale_2)"
    r"|weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..*))|_scale_inv|_blocks|_scales)"
)
_PLAIN = ("F64", "F32", "F16", "BF16")


def collapse_quantized(tensors: Mapping[str, TensorInfo], config: ConfigKeys, folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a folder, with the parts of each quantized weight replaced by one tensor.

    `config` holds the keys of `config.json`. The tensors of an unquantized folder are returned unchanged. Reads only
    headers and a few bytes that hold sizes.

    Raises:
        UnsupportedModelError: an unsupported method or variant.
        CheckpointError: tensors or settings contradict each other, or parts of a weight are missing.
    """
    settings = quantization_settings(tensors, config, folder)
    if settings is None:
        return dict(tensors)
    method = _method(settings)
    if method not in _METHODS:
        raise _unsupported(settings, "a method that it does not name" if method is None else shown(method))
    pool = TensorPool(tensors)
    _METHODS[method](pool, settings)
    for name, info in list(pool.left.items()):
        if _ACTIVATION_PARTS.fullmatch(name) and info.values <= _LARGEST_ACTIVATION_PART:
            del pool.left[name]
        elif _WEIGHT_PARTS.fullmatch(name) or (name.endswith(".weight") and info.encoding not in _PLAIN):
            raise CheckpointError(
                f"{info.path}: tensor {shown(name)} of type {info.encoding} is part of a weight quantized by {method}, "
                "but the other parts are missing or are not quantized. Download the model again."
            )
    return pool.result()


def _method(settings: ConfigKeys) -> str | None:
    method = settings.text("quant_method")
    if method is not None:
        method = method.lower().replace("_", "-").removeprefix("intel/")
        return "modelopt" if method.startswith("modelopt") else method
    if "load_in_4bit" in settings.values or "load_in_8bit" in settings.values:
        return "bitsandbytes"
    if "config_groups" in settings.values:
        return "compressed-tensors"
    if "quant_algo" in settings.values:
        return "modelopt"
    return "mlx" if {"group_size", "bits"} <= settings.values.keys() else None


def _unsupported(settings: ConfigKeys, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{settings.path} says that the weights are quantized by {what}, which is not supported; "
        "use an unquantized or a GGUF version of the model."
    )


def _gptq(tensors: TensorPool, settings: ConfigKeys) -> None:
    version = (settings.text("checkpoint_format") or settings.text("format") or "gptq").lower()
    if version not in ("gptq", "gptq_v2"):
        raise _unsupported(settings, f"gptq in the format {shown(version)}")
    if settings.get("is_marlin_format"):
        raise _unsupported(settings, "gptq in the format 'marlin'")
    collapse_gptq(
        tensors,
        bits=_bits(settings, "gptq", GPTQ_BITS, "bits"),
        group_size=_group_size(settings, "group_size"),
        zero_offset=1 if version == "gptq" else 0,
        uniform=not settings.get("dynamic") and not settings.get("extra_config"),
        in_order=_throughout(settings, "desc_act", value=False),
        symmetric=_throughout(settings, "sym", value=True),
    )


def _awq(tensors: TensorPool, settings: ConfigKeys) -> None:
    version = (settings.text("version") or settings.text("format") or "gemm").lower()
    if version != "gemm":
        raise _unsupported(settings, f"awq in the version {shown(version)}")
    if (settings.text("backend") or "").lower() == "llm-awq":
        raise _unsupported(settings, "awq in the layout of llm-awq")
    if settings.get("extra_config"):
        raise _unsupported(settings, "awq with different settings for different modules")
    _bits(settings, "awq", (4,), "w_bit" if "w_bit" in settings.values else "bits")
    collapse_awq(
        tensors, group_size=_group_size(settings, "q_group_size" if "q_group_size" in settings.values else "group_size")
    )


def _auto_round(tensors: TensorPool, settings: ConfigKeys) -> None:
    packing = (settings.text("packing_format") or "auto_round").lower()
    if packing in ("auto_round:gptq", "auto_round:auto_gptq"):
        _gptq(tensors, settings)
    elif packing in ("auto_round:awq", "auto_round:auto_awq"):
        _awq(tensors, settings)
    else:
        raise _unsupported(settings, f"auto-round in the packing {shown(packing)}")


def _compressed_tensors(tensors: TensorPool, settings: ConfigKeys) -> None:
    variant = refused_variant(settings)
    if variant is not None:
        raise _unsupported(settings, f"compressed-tensors with {variant}")
    collapse_compressed(tensors, settings)


def _fp8(tensors: TensorPool, settings: ConfigKeys) -> None:
    blocks = settings.get("weight_block_size") is not None
    collapse_fp4_experts(tensors)
    collapse_fp8(tensors, [block_size(settings, "weight_block_size")] if blocks else [WHOLE, PER_ROW])


def _fbgemm_fp8(tensors: TensorPool, settings: ConfigKeys) -> None:
    collapse_fp8(tensors, [PER_ROW, PER_COLUMN])


def _modelopt(tensors: TensorPool, settings: ConfigKeys) -> None:
    algorithm = settings.text("quant_algo")
    if algorithm is None:
        # Only the KV cache is meant to be quantized.
        return
    if algorithm == "NVFP4":
        collapse_modelopt_nvfp4(tensors)
    elif algorithm not in ("FP8", "FP8_PER_CHANNEL_PER_TOKEN"):
        raise _unsupported(settings, f"modelopt with the algorithm {shown(algorithm)}")
    collapse_fp8(tensors, [WHOLE, PER_ROW])


def _mxfp4(tensors: TensorPool, settings: ConfigKeys) -> None:
    collapse_mxfp4(tensors)


def _bitsandbytes(tensors: TensorPool, settings: ConfigKeys) -> None:
    collapse_bitsandbytes(tensors)


def _bitnet(tensors: TensorPool, settings: ConfigKeys) -> None:
    if settings.get("use_rms_norm"):
        raise _unsupported(settings, "bitnet with a norm in each layer")
    automatic = (settings.text("linear_class") or "bitlinear") == "autobitlinear"
    if automatic and settings.text("quantization_mode") == "online":
        round_bitnet(tensors)
    else:
        collapse_bitnet(tensors, divides=not automatic)


_METHODS: dict[str, Callable[[TensorPool, ConfigKeys], None]] = {
    "gptq": _gptq,
    "awq": _awq,
    "auto-round": _auto_round,
    "compressed-tensors": _compressed_tensors,
    "fp8": _fp8,
    "fbgemm-fp8": _fbgemm_fp8,
    "modelopt": _modelopt,
    "mxfp4": _mxfp4,
    "bitnet": _bitnet,
    "bitsandbytes": _bitsandbytes,
    "mlx": collapse_mlx,
}


def _throughout(settings: ConfigKeys, key: str, *, value: bool) -> bool:
    """Whether a setting has that value, in general and for every module with its own settings."""
    modules = [section for name in ("dynamic", "extra_config") if (section := settings.get(name))]
    said = [one for section in modules if isinstance(section, dict) for one in section.values()]
    return settings.get(key) is value and all(one.get(key, value) is value for one in said if isinstance(one, dict))


def _bits(settings: ConfigKeys, method: str, known: tuple[int, ...], key: str) -> int:
    bits = settings.integer(key)
    if bits not in known:
        raise _unsupported(settings, f"{method} with {bits} bits")
    return bits


def _group_size(settings: ConfigKeys, key: str) -> int | None:
    """The number of inputs that share a scale; None (-1 in the file) means all of them."""
    return None if settings.get(key) == -1 else settings.integer(key)
