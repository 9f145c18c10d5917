"""BitNet's ternary weights, packed and as the floats of training, against `transformers` with the rounded weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import llmcli
from llmcli.errors import CheckpointError, UnsupportedModelError
from tests.support.models.tiny import edit_config, random_ids, save, tiny_model

IDS = random_ids(30)


def is_ternary(name: str) -> bool:
    return name.endswith("_proj.weight")


def rounded(weight: Tensor) -> tuple[Tensor, float]:
    """The ternary values of a matrix, and the number that multiplies them."""
    mean = float(weight.abs().mean())
    return (weight / mean).round().clamp(-1, 1), mean


def packed(ternary: Tensor) -> Tensor:
    """Four rows of a matrix in one: its first quarter in the lowest bits."""
    quarters = (ternary + 1).to(torch.uint8).chunk(4)
    return quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6


def folder_and_logits(folder: Path) -> tuple[Path, Tensor]:
    """A folder of a model in floats, and the logits of `transformers` after its matrices were rounded."""
    model = tiny_model("bitnet")
    save(model, folder)
    with torch.inference_mode():
        for name, parameter in model.named_parameters():
            if is_ternary(name):
                ternary, mean = rounded(parameter)
                parameter.copy_(ternary * mean)
        logits: Tensor = model(torch.tensor([IDS])).logits[0]
    return folder, logits


def pack(folder: Path, *, divides: bool, settings: dict[str, Any]) -> None:
    stored = load_file(folder / "model.safetensors")
    for name in [name for name in stored if is_ternary(name)]:
        ternary, mean = rounded(stored[name])
        stored[name] = packed(ternary)
        stored[f"{name}_scale"] = torch.tensor([1 / mean if divides else mean])
    save_file(stored, folder / "model.safetensors")
    edit_config(folder, {"quantization_config": {"quant_method": "bitnet", **settings}})


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("linear", ["bitlinear", "autobitlinear"])
def test_packed_weights(tmp_path: Path, linear: str) -> None:
    folder, logits = folder_and_logits(tmp_path)
    settings = {"linear_class": linear, "quantization_mode": "offline"}
    pack(folder, divides=linear == "bitlinear", settings=settings)
    assert relative_error(llmcli.load(folder, dtype="float32", device="cpu").logits(IDS), logits) < 2e-5


def test_floats_are_rounded_while_loading(tmp_path: Path) -> None:
    folder, logits = folder_and_logits(tmp_path)
    settings = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
    edit_config(folder, {"quantization_config": settings})
    assert relative_error(llmcli.load(folder, dtype="float32", device="cpu").logits(IDS), logits) < 2e-5


def test_faulty_files_are_refused(tmp_path: Path) -> None:
    folder, _ = folder_and_logits(tmp_path)
    pack(folder, divides=True, settings={"use_rms_norm": True})
    with pytest.raises(UnsupportedModelError, match="a norm in each layer"):
        llmcli.load(folder, device="cpu")
    edit_config(folder, {"quantization_config": {"quant_method": "bitnet"}})
    stored = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({**stored, f"{name}_scale": torch.ones(2)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"weight_scale' has shape \[2\], but \[1\] goes with"):
        llmcli.load(folder, device="cpu")
    del stored[name]
    save_file(stored, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"mlp\.up_proj\.weight' is missing"):
        llmcli.load(folder, device="cpu")
