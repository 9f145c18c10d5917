from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.models.induction_model import write_induction_model
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm

KINDS = ["previous", "duplicate", "induction", "sink"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_induction_model(tmp_path_factory.mktemp("induction"))


def test_json_has_the_scores_of_every_head(model: Path) -> None:
    result = llm("inspect", "heads", "-m", model, "--json", "--ablate", 1)
    assert (result.returncode, result.stderr) == (0, b"")
    atlas = json.loads(result.stdout)
    assert atlas["schema"] == "llmcli.heads/1"
    assert (atlas["length"], atlas["batch"], atlas["bos"], atlas["seed"]) == (50, 4, True, 0)
    assert [(head["layer"], head["head"]) for head in atlas["heads"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert atlas["heads"][0]["previous"] == pytest.approx(1, abs=1e-6)
    assert atlas["heads"][2]["induction"] == pytest.approx(1, abs=1e-6)
    assert all(0 <= head[kind] <= 1 for head in atlas["heads"] for kind in KINDS)
    assert atlas["ablation"]["heads"] == [{"layer": 1, "head": 0}]
    assert atlas["ablation"]["without"] > atlas["ablation"]["before"] + 3
    assert len(atlas["ablation"]["random"]) == 5


def test_a_pipe_is_read_only_when_asked_for(model: Path) -> None:
    without = llm("inspect", "heads", "-m", model, "--json")
    assert llm("inspect", "heads", "-m", model, "--json", stdin=b"abc").stdout == without.stdout
    given = llm("inspect", "heads", "abc", "-m", model, "--json")
    assert llm("inspect", "heads", "-", "-m", model, "--json", stdin=b"abc").stdout == given.stdout
    atlas = json.loads(given.stdout)
    assert (atlas["length"], atlas["batch"], atlas["seed"]) == (3, 1, None)
    assert json.loads(without.stdout)["ablation"] is None


def test_seeds_draw_other_texts(tmp_path: Path) -> None:
    model = tiny_checkpoint(tmp_path, "llama")
    first, second, again = (
        json.loads(llm("inspect", "heads", "-m", model, "--json", "--seed", seed).stdout) for seed in (0, 1, 0)
    )
    assert first == again and first["heads"] != second["heads"]
    assert (first["seed"], second["seed"]) == (0, 1)


def test_the_view_and_its_files(model: Path, tmp_path: Path) -> None:
    html, svg = tmp_path / "a.html", tmp_path / "a.svg"
    result = llm("inspect", "heads", "-m", model, "--ablate", 1, "--html", html, "--svg", svg)
    text = result.stdout.decode()
    assert "1.0 1.00" in text and "without 1.0 " in text and "░▒" not in text.split("strongest")[1]
    assert "<td>1.0</td>" in html.read_text() and "viewer.drawings.heads" in html.read_text()
    assert "<svg" in svg.read_text() and "llm inspect heads" in svg.read_text().replace("&#160;", " ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--chat"], "--chat makes"),
        (["ab"], "2 tokens"),
        ([""], "empty"),
        (["--ablate", "3"], "from 1 to 2"),
    ],
)
def test_invalid_options_are_refused(model: Path, arguments: list[str], words: str) -> None:
    result = llm("inspect", "heads", *arguments, "-m", model)
    assert result.returncode == 2 and words in result.stderr.decode() and not result.stdout


def test_a_message_can_be_repeated(model: Path) -> None:
    raw, chat = (
        json.loads(llm("inspect", "heads", "abc", "-m", model, "--json", *more).stdout) for more in ([], ["--chat"])
    )
    assert chat["length"] > raw["length"] == 3
