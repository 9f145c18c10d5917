from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmcli.hub.starter import fetch_starter, starter_path
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("m"), "llama", vocab_size=280)


def test_json_has_both_rankings_and_the_baseline(model: Path) -> None:
    result = json.loads(llm("inspect", "embeddings", "a - b", "-m", model, "--json", "--top", 4).stdout)
    assert result["schema"] == "llmcli.embeddings/1"
    assert [(term["sign"], term["word"], term["token"]["bytes"], term["spaced"]) for term in result["expression"]] == [
        (1, "a", "YQ==", False),
        (-1, "b", "Yg==", False),
    ]
    for ranking in (result["raw"], result["centred"]):
        assert [set(near) for near in ranking] == [{"id", "text", "bytes", "cosine", "input"}] * 4
        assert [near["cosine"] for near in ranking] == sorted((near["cosine"] for near in ranking), reverse=True)
    assert set(result["random_pair"]) == {"raw", "centred"}
    piped = llm("inspect", "embeddings", "-m", model, "--json", "--top", 4, stdin=b"a - b\n")
    assert json.loads(piped.stdout) == result
    whole = json.loads(llm("inspect", "embeddings", "a", "-m", model, "--json", "--top", 999).stdout)
    assert {near["id"] for near in whole["raw"]} == set(range(261))


def test_the_rankings_are_shown_and_written_to_files(model: Path, tmp_path: Path) -> None:
    shown = llm("inspect", "embeddings", "a", "-m", model, "--svg", tmp_path / "a.svg").stdout.decode()
    assert shown.count("random pairs") == 2
    assert "random" in (tmp_path / "a.svg").read_text()


@pytest.mark.parametrize(("text", "message"), [("a b", b"as in: king"), ("ab", b"2 tokens"), ("", b"empty")])
def test_an_invalid_expression_is_a_usage_error(model: Path, text: str, message: bytes) -> None:
    refused = llm("inspect", "embeddings", text, "-m", model)
    assert refused.returncode == 2
    assert message in refused.stderr


@pytest.mark.starter
def test_king_minus_man_plus_woman_is_near_queen() -> None:
    starter = starter_path() or fetch_starter()
    result = json.loads(llm("inspect", "embeddings", "king - man + woman", "-m", starter, "--json").stdout)
    assert (result["raw"][0]["text"], result["raw"][0]["cosine"]) == (" queen", pytest.approx(0.72, abs=0.01))
    assert [(near["text"], near["input"]) for near in result["centred"][:2]] == [(" king", True), (" queen", False)]
    assert result["centred"][1]["cosine"] == pytest.approx(0.65, abs=0.01)
    assert result["random_pair"]["raw"] == pytest.approx(0.44, abs=0.01)
    assert abs(result["random_pair"]["centred"]) < 0.01
