"""`llm page`, and the pages of `llm generate` and `llm score`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("m") / "tiny", "llama", max_position_embeddings=600)


def embedded(path: Path) -> Any:
    """The JSON in a page."""
    found = re.search('<script type="application/json" id="value">(.*?)</script>', path.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


@pytest.mark.parametrize("command", [["generate", "the cat", "-n", 3, "--seed", 5], ["score", "the cat sat"]])
def test_a_page_holds_the_json_of_its_command(model: Path, tmp_path: Path, command: list[object]) -> None:
    path = tmp_path / "a.html"
    result = llm(*command, "-m", model, "--top", 9, "--json", "--html", path)
    printed, shown = json.loads(result.stdout), embedded(path)
    assert (printed["tokens"], len(printed["tokens"][1]["top"])) == (shown["tokens"], 9)
    assert printed.keys() == shown.keys()
    assert f"<title>llm {command[0]} · tiny · the cat" in path.read_text()


@pytest.mark.parametrize("command", [["generate", "the cat", "-n", 3, "--seed", 5], ["score", "the cat sat"]])
def test_a_page_lists_alternatives_that_the_output_does_not(model: Path, tmp_path: Path, command: list[object]) -> None:
    path = tmp_path / "a.html"
    plain = llm(*command, "-m", model)
    result = llm(*command, "-m", model, "--html", path)
    assert (result.returncode, result.stdout, result.stderr) == (0, plain.stdout, plain.stderr)
    assert [len(token["top"]) for token in embedded(path)["tokens"]][1:] == [
        8,
        8,
        *[8] * (len(embedded(path)["tokens"]) - 3),
    ]
    printed = json.loads(llm(*command, "-m", model, "--json", "--html", path).stdout)
    assert all(token["top"] == [] for token in printed["tokens"])


def test_the_events_of_a_reply_have_no_alternatives_of_its_page(model: Path, tmp_path: Path) -> None:
    result = llm("generate", "a", "-m", model, "-n", 2, "--jsonl", "--top", 1, "--html", tmp_path / "a.html")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [len(event["top"]) for event in events if event["event"] == "step"] == [1, 1]


def test_the_page_of_a_reply_names_its_settings(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    given = ["--seed", 5, "-t", 0.7, "--min-p", 0.1, "--stop", "zzz", "-n", 2]
    llm("generate", "a", "-m", model, *given, "--html", path)
    for words in (
        "seed <strong>5<",
        "temperature <strong>0.7<",
        "min-p <strong>0.1<",
        "max-tokens <strong>2<",
        "stop <strong>zzz<",
    ):
        assert words in path.read_text()
    assert "xtc" not in re.sub("<script>.*</script>", "", path.read_text(), flags=re.DOTALL)


def test_stored_json_becomes_the_same_page(model: Path, tmp_path: Path) -> None:
    stored = tmp_path / "reply.json"
    stored.write_bytes(llm("generate", "a <b>", "-m", model, "-n", 2, "--top", 2, "--json").stdout)
    result = llm("page", stored)
    assert (result.returncode, result.stdout) == (0, b"") and b"reply.html" in result.stderr
    assert embedded(tmp_path / "reply.html") == json.loads(stored.read_bytes())
    assert "<title>llm generate · tiny · a &lt;b&gt;" in (tmp_path / "reply.html").read_text()
    assert llm("page", stored, "-o", tmp_path / "other.html", "-q").stderr == b""
    assert (tmp_path / "other.html").read_text() == (tmp_path / "reply.html").read_text()


def test_piped_json_becomes_a_page_where_it_is_said(model: Path, tmp_path: Path) -> None:
    printed = llm("score", "abc", "-m", model, "--json").stdout
    assert llm("page", "-", "-o", tmp_path / "a.html", stdin=printed).returncode == 0
    assert embedded(tmp_path / "a.html") == json.loads(printed)
    refused = llm("page", "-", stdin=printed)
    assert refused.returncode == 2 and b"with --out, or give --open" in refused.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "has no JSON object"),
        ("[1]", "has no JSON object"),
        ("[" * 100_000, "has no JSON object"),
        ("{}", "There is no page"),
        ('{"schema": "llmcli.bench/1"}', "There is no page"),
        ('{"schema": "llmcli.score/1"}', "a field is missing"),
        ('{"schema": "llmcli.score/1", "tokens": [1]}', "a field is missing"),
        ('{"model": 1, "prompt": [], "finish_reason": 0, "tokens": {}, "stats": 3}', "a field is missing"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, words: str) -> None:
    stored = tmp_path / "a.json"
    stored.write_text(content)
    result = llm("page", stored)
    assert result.returncode == 2 and words in " ".join(result.stderr.decode().split())
    assert not (tmp_path / "a.html").exists()


def test_open_shows_a_page_in_the_browser(model: Path, tmp_path: Path) -> None:
    for command, name in ((["score", "abc"], "score"), (["inspect", "tokens", "abc"], "tokens")):
        with mock.patch("webbrowser.open", return_value=True) as opened, mock.patch("tempfile.tempdir", str(tmp_path)):
            result = llm(*command, "-m", model, "--open")
        (address,) = opened.call_args.args
        path = Path(address.removeprefix("file://"))
        assert result.returncode == 0 and str(path).encode() in result.stderr
        assert path.parent.stat().st_mode & 0o77 == 0 and "<html" in path.read_text(), name


def test_open_without_a_browser_says_where_the_page_is(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    with mock.patch("webbrowser.open", return_value=False):
        result = llm("score", "abc", "-m", model, "--html", path, "--open")
    assert result.returncode == 0 and b"No browser was found" in result.stderr and path.exists()
