from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.models.parity_cases import CASES
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model_type, overrides = CASES["deepseek v3"]
    return tiny_checkpoint(tmp_path_factory.mktemp("m"), model_type, **overrides)


def test_json_routes_every_token_in_every_block_with_experts(model: Path) -> None:
    result = json.loads(llm("inspect", "experts", "abc", "-m", model, "--json").stdout)
    assert (result["schema"], result["dense"]) == ("llmcli.experts/1", [0])
    assert [set(token) for token in result["tokens"]] == [{"id", "text", "bytes"}] * 4
    assert [layer["layer"] for layer in result["layers"]] == [1, 2]
    for layer in result["layers"]:
        assert (layer["experts"], layer["chosen"], len(layer["load"]), len(layer["routing"])) == (8, 2, 8, 4)
        assert sum(layer["load"]) == pytest.approx(1)
        assert all(set(item) == {"expert", "weight"} for row in layer["routing"] for item in row)
    one = json.loads(llm("inspect", "experts", "abc", "-m", model, "--json", "--layer", 2).stdout)
    assert one["layers"] == result["layers"][1:]
    chat = json.loads(llm("inspect", "experts", "abc", "-m", model, "--json", "--chat").stdout)
    assert len(chat["tokens"]) == 7


def test_the_view_shows_expert_loads_and_routes(model: Path, tmp_path: Path) -> None:
    shown = llm("inspect", "experts", "abc", "-m", model, "--html", tmp_path / "a.html").stdout.decode()
    assert shown.startswith("block 0: dense")
    assert "the expert with the greatest weight" in shown
    assert "load" in (tmp_path / "a.html").read_text()
    assert "weights in block 1" in llm("inspect", "experts", "abc", "-m", model, "--layer", 1).stdout.decode()


def test_a_dense_model_and_a_dense_block_are_refused(model: Path, tmp_path: Path) -> None:
    refused = llm("inspect", "experts", "abc", "-m", tiny_checkpoint(tmp_path / "m", "llama"))
    assert (refused.returncode, b"dense model" in refused.stderr) == (2, True)
    refused = llm("inspect", "experts", "abc", "-m", model, "--layer", 0)
    assert (refused.returncode, b"Block 0 is dense" in refused.stderr) == (2, True)
