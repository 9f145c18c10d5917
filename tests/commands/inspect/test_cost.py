from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmcli.hub.starter import fetch_starter, starter_path
from tests.support.models.parity_cases import CASES
from tests.support.models.tiny import edit_config
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("m"), "llama")


def test_json_counts_lengths_of_text_and_context(model: Path) -> None:
    result = json.loads(llm("inspect", "cost", "abc", "-m", model, "--json", "--context", 50).stdout)
    assert result["schema"] == "llmcli.cost/1"
    assert [(length["tokens"], length["origin"]) for length in result["lengths"]] == [
        (4, "text"), (50, "asked"), (128, "context"),
    ]  # fmt: skip
    assert result["parameters"] == sum(box["parameters"] for box in result["boxes"])
    chat = json.loads(llm("inspect", "cost", "-", "-m", model, "--json", "--chat", stdin=b"abc").stdout)
    assert chat["lengths"][0]["tokens"] == 7
    # Standard input is read only for "-".
    plain = json.loads(llm("inspect", "cost", "-m", model, "--json", stdin=b"abc").stdout)
    assert [length["tokens"] for length in plain["lengths"]] == [128]
    assert plain["parameters"] == json.loads(llm("show", model, "--json").stdout)["parameters"]


def test_weights_are_not_read(model: Path, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m", "llama")
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1000:] = b"\xff" * 1000
    weights.write_bytes(data)
    assert (
        llm("inspect", "cost", "-m", folder).stdout.splitlines()[2:]
        == (llm("inspect", "cost", "-m", model).stdout.splitlines()[2:])
    )


@pytest.mark.parametrize("case", ["mixtral, window", "deepseek v3", "gpt-2", "llama 4"])
def test_every_kind_of_model_has_a_view(case: str, tmp_path: Path) -> None:
    model_type, overrides = CASES[case]
    folder = tiny_checkpoint(tmp_path / "m", model_type, **overrides)
    result = llm("inspect", "cost", "-m", folder, "--html", tmp_path / "a.html", "--svg", tmp_path / "a.svg")
    assert b"KV cache" in result.stdout
    assert result.stderr == b""
    assert "attention" in (tmp_path / "a.html").read_text()
    assert "attention" in (tmp_path / "a.svg").read_text()


def test_invalid_options_and_broken_files_are_reported(model: Path, tmp_path: Path) -> None:
    for arguments in (["--chat"], ["--context", 0], ["", "--chat"], ["--context", 1 << 40]):
        assert llm("inspect", "cost", "-m", model, *arguments).returncode == 2
    folder = tiny_checkpoint(tmp_path / "m", "llama")
    edit_config(folder, {"hidden_size": 16})
    assert llm("inspect", "cost", "-m", folder).returncode == 4


@pytest.mark.starter
def test_the_cost_of_the_starter_model() -> None:
    result = json.loads(llm("inspect", "cost", "-m", starter_path() or fetch_starter(), "--json").stdout)
    assert (result["parameters"], result["kv_bytes_per_token"]) == (134_515_008, 23_040)
    assert result["kv_bytes_per_token_ungrouped"] == 3 * 23_040
