"""Loading weights to a device by this program and by safetensors: the same weights, and their speeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llmcli.bench.arms import weight_loading
from llmcli.bench.arms import worker as arm_process
from llmcli.bench.arms.weight_loading import by_safe_open, loading_speeds, safetensors_files
from llmcli.bench.plan import BenchPlan, Sizes
from llmcli.checkpoint.checkpoint import Checkpoint, open_checkpoint
from llmcli.checkpoint.load_weights import load_weights
from llmcli.errors import OutOfMemoryError
from tests.support.gguf.families import made
from tests.support.gguf.writer import write_gguf
from tests.support.models.tiny import save, tiny_model

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


def device_of(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(name)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    model = tiny_model("llama").to(torch.bfloat16)
    return open_checkpoint(save(model, tmp_path_factory.mktemp("m"), max_shard_size="20KB"))


@pytest.mark.parametrize("name", DEVICES)
def test_both_loaders_give_the_same_weights(name: str, checkpoint: Checkpoint) -> None:
    device = device_of(name)
    files = safetensors_files(checkpoint)
    assert len(files) > 1
    theirs = by_safe_open(files, device)
    ours = dict(load_weights(checkpoint, device, checkpoint.stored_dtype()).named_parameters())
    assert len(theirs) == len(ours)
    for parameter, values in ours.items():
        (stored,) = checkpoint.sources[parameter].names
        assert values.device.type == theirs[stored].device.type == name
        assert torch.equal(values, theirs[stored])


@pytest.mark.parametrize("name", DEVICES)
def test_speeds_are_bytes_over_the_best_time(
    name: str, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = device_of(name)
    assert all(speed > 0 for speed in loading_speeds(checkpoint, device))
    seconds = iter((4.0, 8.0, 2.0, 16.0))
    monkeypatch.setattr(weight_loading, "_seconds", lambda load, device: next(seconds))
    total = sum(file.stat().st_size for file in safetensors_files(checkpoint))
    ours, theirs = loading_speeds(checkpoint, device)
    assert ours == pytest.approx(total / 2, rel=0.2)
    assert theirs == pytest.approx(ours / 4)


def test_a_gguf_file_has_no_safetensors_files(tmp_path: Path) -> None:
    assert not safetensors_files(open_checkpoint(write_gguf(made("llama 3.1"), tmp_path / "m.gguf")))


def test_loading_speeds_are_left_out_if_the_model_does_not_fit(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = BenchPlan("machine", str(checkpoint.path), "cuda", "auto", 1, (), Sizes((), (), 1))
    said: list[dict[str, Any]] = []
    monkeypatch.setattr(weight_loading, "loading_speeds", lambda *_: (2.0, 1.0))
    arm_process._measure_loading(plan, said.append)
    assert [(one["measure"], one["value"]) for one in said] == [("load_bytes_per_s", 2.0), ("safe_open_bytes_per_s", 1)]

    def full(*_: object) -> tuple[float, float]:
        raise OutOfMemoryError("no room")

    monkeypatch.setattr(weight_loading, "loading_speeds", full)
    arm_process._measure_loading(plan, said.append)
    assert len(said) == 2
