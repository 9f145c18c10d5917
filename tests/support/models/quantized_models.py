"""Folders of small models whose weights are quantised in one of the ways of `quantised_cases`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.models.quantized_cases import make
from tests.support.models.tiny import edit_config, save


def save_quantised(model: Any, folder: Path, name: str) -> dict[str, Tensor]:
    """Save `model` in `folder` with the projections of a case instead of its own; all tensors, decoded, by name."""
    save(model, folder)
    # Copies: what the library loads is the file itself, which is about to be written anew.
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
