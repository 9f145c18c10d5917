from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmcli.kernels.cpu.build import load_library
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Load the kernel from the shared cache before the test changes the cache folder.
    load_library()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tiny_checkpoint(tmp_path / "model", "llama")


def record(model: Path, file: Path, *flags: object) -> dict[str, object]:
    result = llm("generate", "hi", "-m", model, "-n", 8, "--seed", 3, "--record", file, *flags)
    assert result.returncode == 0, result.stderr
    found: dict[str, object] = json.loads(file.read_text())
    return found


def test_replay_reproduces_a_recorded_reply(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    run = record(model, file, "--prefill", "So", "--json", "--top", 2)
    assert (run["schema"], run["prompt"], run["model"]) == ("llmcli.run/1", "hi", "model")
    assert str(run["text"]).startswith("So")
    result = llm("replay", file)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.startswith(b"The same: all 8 tokens.\n")
    found = json.loads(llm("replay", file, "--json").stdout)
    assert (found["schema"], found["same"], found["first_difference"]) == ("llmcli.replay/1", True, None)
    assert [path.name for path in tmp_path.glob("*run*")] == ["run.json"]


def test_recording_does_not_change_the_output(model: Path, tmp_path: Path) -> None:
    flags = ["generate", "hi", "-m", model, "-n", 3, "--seed", 3, "--json"]
    plain, recorded = (json.loads(llm(*flags, *more).stdout) for more in ([], ["--record", tmp_path / "r"]))
    assert plain["tokens"] == recorded["tokens"]


def test_other_weights_are_reported_and_a_difference_exits_with_1(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    record(model, file, "-t", 0)
    weights = model / "model.safetensors"
    tensors = load_file(weights)
    tensors["lm_head.weight"] = torch.flip(tensors["lm_head.weight"], (0,))
    save_file(tensors, weights, metadata={"format": "pt"})
    result = llm("replay", file)
    assert result.returncode == 1
    words = result.stdout.decode()
    assert "Token 0 differs; it is the first." in words and "bits apart: in the replay its own token is more" in words
    assert "file model.safetensors:" in words and "torch" not in words
    found = json.loads(llm("replay", file, "--json").stdout)
    assert list(found["changed"]) == ["file model.safetensors"]
    assert found["first_difference"]["gap"] > 0


def test_replay_accepts_another_path_and_dtype(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    record(model, file, "--dtype", "float32")
    moved = model.rename(tmp_path / "moved")
    assert llm("replay", file).returncode == 3
    assert llm("replay", file, "-m", moved).returncode == 0
    other = json.loads(llm("replay", file, "-m", moved, "--dtype", "bfloat16", "--json").stdout)
    assert other["changed"]["dtype"] == ["float32", "bfloat16"]
    run = json.loads(file.read_text())
    file.write_text(json.dumps(run | {"device": "cuda:7"}))
    assert json.loads(llm("replay", file, "-m", moved, "--json").stdout)["changed"]["device"] == ["cuda:7", "cpu"]


@pytest.mark.parametrize(("content", "why"), [(None, "cannot be read"), ("{", "not JSON"), ("{}", "no schema")])
def test_a_file_that_is_not_a_record_is_refused(tmp_path: Path, content: str | None, why: str) -> None:
    file = tmp_path / "run.json"
    if content is not None:
        file.write_text(content)
    result = llm("replay", file)
    assert (result.returncode, result.stdout) == (2, b"")
    assert why in result.stderr.decode() and "run.json" in result.stderr.decode()


def test_an_unwritable_record_path_is_reported_first(model: Path, tmp_path: Path) -> None:
    for place in (tmp_path / "nowhere" / "run.json", tmp_path):
        result = llm("generate", "hi", "-m", "/nowhere", "--record", place)
        assert (result.returncode, b"cannot be recorded" in result.stderr) == (2, True)
    refused = llm("generate", "hi", "-m", model, "--choices", "a,b", "--record", tmp_path / "r")
    assert refused.returncode == 2
