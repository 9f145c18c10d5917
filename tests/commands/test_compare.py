from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.models.puppet import ASSISTANT, BOS, ids_of, write_puppet
from tests.support.terminal.cli import llm

A, B, C = ids_of(b"abc")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models that both begin a reply with b, and then differ."""
    start = {BOS: {A: 1.0}, ASSISTANT: {A: 1.0}, A: {B: 1.0}}
    return (
        write_puppet(tmp_path_factory.mktemp("1") / "sure", start | {B: {C: 0.9, A: 0.1}}),
        write_puppet(tmp_path_factory.mktemp("2") / "unsure", start | {B: {C: 0.4, A: 0.6}}),
    )


def test_a_piped_text_gives_a_table(pair: tuple[Path, Path]) -> None:
    result = llm("compare", *pair, "abc", "-n", 4, "--dtype-a", "float32", "--dtype-b", "float32")
    assert (result.returncode, result.stderr) == (0, b"")
    lines = result.stdout.decode().splitlines()
    assert lines[0].split()[:6] == ["#", "token", "KL", "bits", "A", "B"]
    assert lines[3].split() == ["3", "c", "0.794", "90.0%", "40.0%", "c", "90.0%", "or", "a", "60.0%"]
    words = " ".join(" ".join(lines).split())
    assert "A sure in float32: perplexity 1.036" in words
    assert "largest 0.794 at c (3) · same first choice 66.7% of 3 tokens" in words
    assert "the same 0 tokens" in words
    assert llm("compare", *pair, "-", stdin=b"abc", env={"COLUMNS": "80"}).stdout.startswith(b"#")


def test_a_prompt_is_answered_and_the_answer_compared(pair: tuple[Path, Path]) -> None:
    flags = ["--prompt", "hi", "-n", 4, "--json"]
    result = json.loads(llm("compare", *pair, *flags).stdout)
    assert (result["schema"], result["models"], result["compared"]) == ("llmcli.compare/1", ["sure", "unsure"], 3)
    assert [said["text"] for said in result["continuations"]] == ["abc", "abab"]
    assert (result["parting"]["index"], result["parting"]["first"]["text"]) == (2, "c")
    words = " ".join(llm("compare", *pair, *flags[:-1]).stdout.decode().split())
    assert re.search(r"token 2 is the first that differs. A c by 3\.\d+ bits abc B a by 0\.5", words)


def test_a_comparison_can_be_written_as_html_and_svg(pair: tuple[Path, Path], tmp_path: Path) -> None:
    page, picture = tmp_path / "c.html", tmp_path / "c.svg"
    result = llm("compare", *pair, "abc", "--html", page, "--svg", picture, "--json")
    assert result.returncode == 0
    assert "KL in bits" in page.read_text() and "llm&#160;compare" in picture.read_text()
    assert '<p class="prompt">abc</p>' in page.read_text()
    stored = tmp_path / "c.json"
    stored.write_bytes(result.stdout)
    assert llm("page", stored, "-o", tmp_path / "d.html").returncode == 0
    for path in (page, tmp_path / "d.html"):
        assert "<h1>llm compare · sure and unsure</h1>" in path.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["{0}", "/nowhere", "abc"], 3, "/nowhere"),
        (["{0}", "{1}", "abc", "--prompt", "x"], 2, "not both"),
        (["{0}", "{1}", "--prompt", ""], 2, "empty"),
        (["{0}", "{1}", "abc", "--dtype-b", "int3"], 2, "int3"),
        (["{0}"], 2, "B"),
    ],
)
def test_invalid_comparisons_are_reported(pair: tuple[Path, Path], arguments: list[str], code: int, why: str) -> None:
    result = llm("compare", *[argument.format(*pair) for argument in arguments])
    assert (result.returncode, result.stdout) == (code, b"")
    assert why in result.stderr.decode()
