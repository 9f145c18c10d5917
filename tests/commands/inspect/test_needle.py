from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("m"), "llama", max_position_embeddings=600)


def test_json_has_every_depth_and_seed(model: Path) -> None:
    arguments = ["--facts", 3, "--seeds", 2, "--depths", "0,37.5,100", "--json"]
    # Piped text is not read.
    result = json.loads(llm("inspect", "needle", "-m", model, *arguments, stdin=b"text").stdout)
    assert (result["schema"], result["facts"], result["seeds"]) == ("llmcli.needle/1", 3, 2)
    assert result["chance"] == pytest.approx(1 / 3)
    assert "95%" in result["interval"]
    assert [depth["depth"] for depth in result["depths"]] == [0, 37.5, 100]
    for depth in result["depths"]:
        assert 0 <= depth["low"] <= depth["mean"] <= depth["high"] <= 1
        assert len(depth["probs"]) == 2
    chat = json.loads(llm("inspect", "needle", "-m", model, *arguments, "--chat").stdout)
    assert chat["chat"] and chat["depths"] != result["depths"]


def test_the_view_has_a_line_for_each_depth(model: Path, tmp_path: Path) -> None:
    arguments = ["--facts", 2, "--seeds", 2, "--depths", "0,100", "--context-tokens", 400]
    result = llm("inspect", "needle", "-m", model, *arguments, "--html", tmp_path / "a.html")
    shown = result.stdout.decode()
    assert "   0 %" in shown and " 100 %" in shown
    assert "chance 50.0%" in shown
    assert "chance" in (tmp_path / "a.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--depths", "0,x"], 2),
        (["--depths", ""], 2),
        (["--depths", "0,nan"], 2),
        (["--facts", 1], 2),
        (["--seeds", 0], 2),
        (["--facts", 40], 6),
    ],
)
def test_invalid_numbers_are_usage_errors(model: Path, arguments: list[object], code: int) -> None:
    result = llm("inspect", "needle", "-m", model, *arguments)
    assert (result.returncode, result.stdout) == (code, b"")
    assert b"bug" not in result.stderr
