from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("m"), "llama")


def test_json_has_an_attention_row_for_each_token(model: Path) -> None:
    result = json.loads(llm("inspect", "attention", "abc", "-m", model, "--json").stdout)
    assert (result["schema"], [token["text"] for token in result["tokens"]]) == (
        "llmcli.attention/1",
        ["<|bos|>", "a", "b", "c"],
    )
    assert [row["position"] for row in result["rows"]] == [0, 1, 2, 3]
    assert result["rows"][0] == {"position": 0, "sink": 1.0, "self": 0.0, "read": []}
    assert result["rows"][1]["sink"] + result["rows"][1]["self"] == pytest.approx(1, abs=1e-5)
    assert [read["text"] for read in result["rows"][2]["read"]] == ["a"]
    assert result == json.loads(llm("inspect", "attention", "-m", model, "--json", stdin=b"abc").stdout)
    long = json.loads(llm("inspect", "attention", "x" * 90, "-m", model, "--json").stdout)
    assert [row["position"] for row in long["rows"]] == list(range(83, 91))


def test_one_row_comes_with_every_block(model: Path) -> None:
    shown = llm("inspect", "attention", "abc", "-m", model, "--position", -1).stdout.decode()
    assert "block" in shown
    result = json.loads(llm("inspect", "attention", "abc", "-m", model, "--position", -1, "--json").stdout)
    assert [block["block"] for block in result["blocks"]] == [0, 1, 2]
    only = json.loads(
        llm("inspect", "attention", "abc", "-m", model, "--position", 3, "--layers", "1-2", "--json").stdout
    )
    assert only["blocks"] == result["blocks"][1:]


def test_the_pattern_of_a_head(model: Path) -> None:
    flags = ["-m", model, "--layer", 1, "--head", 2]
    result = json.loads(llm("inspect", "attention", "abc", *flags, "--json").stdout)
    assert (result["layer"], result["head"], len(result["pattern"])) == (1, 2, 4)
    for query, row in enumerate(result["pattern"]):
        assert sum(row) == pytest.approx(1, abs=1e-5)
        assert len(row) == 4 and not any(row[query + 1 :])
    assert "block 1, head 2" in llm("inspect", "attention", "abc", *flags).stdout.decode()
    in_words = llm("inspect", "attention", "x" * 70, *flags).stdout.decode()
    assert "attends to" in in_words and len(in_words.splitlines()) > 70


def test_attention_can_be_summed_by_message(model: Path) -> None:
    flags = ["-m", model, "--chat", "--by", "message", "--json"]
    row = json.loads(llm("inspect", "attention", "abc", *flags).stdout)["rows"][-1]
    assert {read["text"] for read in row["read"]} == {"user: abc", "the reply"}
    words = json.loads(llm("inspect", "attention", "one two", "-m", model, "--by", "word", "--json").stdout)
    assert words["rows"][-1]["read"][0]["text"] in ("one", " two")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--head", "1"], "--head needs --layer"),
        (["--layer", "1", "--layers", "1-2"], "not both"),
        (["--layer", "9"], "There is no such block"),
        (["--layer", "9", "--head", "0"], "There is no block 9"),
        (["--layer", "0", "--head", "4"], "There is no head 4: block 0 has 4"),
        (["--layers", "2-1"], "not a range"),
        (["--layers", "0-3"], "There is no block 3"),
        (["--position", "4"], "There is no token 4"),
        (["--by", "message"], "needs --chat"),
    ],
)
def test_invalid_options_are_refused(model: Path, flags: list[str], says: str) -> None:
    result = llm("inspect", "attention", "abc", "-m", model, *flags)
    assert (result.returncode, says in result.stderr.decode()) == (2, True)


def test_all_heads_are_listed_and_written(model: Path, tmp_path: Path) -> None:
    flags = ["inspect", "attention", "abc", "-m", model, "--all-heads"]
    shown = llm(*flags, "--layer", 1, "--html", tmp_path / "a.html").stdout.decode()
    assert [line.split()[0] for line in shown.splitlines()] == ["head", "1.0", "1.1", "1.2", "1.3"]
    assert "the last token attends to" in (tmp_path / "a.html").read_text()
    heads = json.loads(llm(*flags, "--json").stdout)["heads"]
    assert [len(row) for row in heads[-1]["pattern"]] == [1, 2, 3, 4] and len(heads) == 12
    for more in (["--position", 1], ["--layer", 1, "--head", 1], ["--by", "word"]):
        refused = llm(*flags, *more)
        assert refused.returncode == 2 and b"--all-heads gives whole patterns" in refused.stderr
