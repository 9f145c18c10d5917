"""Files of small models with weights quantized as in `cases`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.checkpoint.quantized.detect import collapse_quantized
from llmcli.checkpoint.tensors.tensor_info import StoredTensor
from tests.support.models.safetensors_folder import read_safetensors_folder
from tests.support.models.tiny import edit_config, save
from tests.support.quantized.cases import Case, make


def save_quantized(model: Any, folder: Path, name: str) -> dict[str, Tensor]:
    """Save `model` in `folder` with the projections of a case; returns all tensors, decoded, by name."""
    save(model, folder)
    # Copies, because the library maps the file, which will be rewritten.
    plain = {key: tensor.clone() for key, tensor in load_file(folder / "model.safetensors").items()}
    stored = dict(plain)
    config: dict[str, Any] = {}
    for index, weight in enumerate(sorted(weight for weight in plain if weight.endswith("_proj.weight"))):
        case = make(name, *plain[weight].shape, seed=index)
        stored.pop(weight)
        stored |= {weight.removesuffix(".weight") + part: tensor for part, tensor in case.tensors.items()}
        plain[weight], config = case.weight, case.config
    save_file({key: tensor.contiguous() for key, tensor in stored.items()}, folder / "model.safetensors")
    # Safetensors headers are JSON, so the settings survive a round trip through it.
    edit_config(folder, {"quantization_config": config})
    return plain


MODULE = "model.layers.0.mlp.up_proj"


def opened(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, StoredTensor]:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    keys = ConfigKeys({"quantization_config": config}, folder / "config.json")
    return collapse_quantized(read_safetensors_folder(folder), keys, folder)


def named(case: Case, module: str = MODULE) -> dict[str, Tensor]:
    return {module + name: tensor for name, tensor in case.tensors.items()}
