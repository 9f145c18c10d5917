from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.models.induction_model import write_induction_model
from tests.support.terminal.cli import llm

TEXT = "abcdab"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_induction_model(tmp_path_factory.mktemp("induction"))


def without(model: Path, *arguments: object, stdin: bytes = b"") -> Any:
    result = llm("inspect", "without", *arguments, "-m", model, "--json", stdin=stdin)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_repetition_depends_on_the_repeated_text(model: Path) -> None:
    # After "abcdab" the model predicts c, as before; without the first c it cannot.
    found = without(model, "c", TEXT, "--max-tokens", 1)
    assert found["schema"] == "llmcli.without/1"
    assert found["span"] == {"positions": [3], "text": "c", "ends_prompt": False}
    assert len(found["answer"]) == 1
    token = found["answer"][0]
    assert base64.b64decode(token["bytes"]) == b"c" == token["text"].encode()
    assert token["before"] == pytest.approx(1, abs=1e-6)
    assert token["hidden"] < 0.5 and token["removed"] < 0.5
    total, instead = found["total"], found["instead"]
    assert total["before"] == pytest.approx(0, abs=1e-6) and total["hidden"] < -0.5
    assert instead["before"]["text"] == "c" != instead["removed"]["text"]


def test_a_span_by_text_number_or_pipe_gives_the_same_result(model: Path) -> None:
    by_text = without(model, "c", TEXT, "-n", 2)
    assert by_text == without(model, "3", TEXT, "--positions", "-n", 2)
    assert by_text == without(model, "c", "-n", 2, stdin=TEXT.encode())
    assert by_text == without(model, "c", TEXT, "--answer", "cd")
    assert by_text["answer"] != without(model, "c", TEXT, "--answer", "dd")["answer"]


def test_a_star_leaves_out_each_word_in_turn(model: Path) -> None:
    found = without(model, "*", "a b c a b", "--answer", " ")
    assert found["schema"] == "llmcli.without-words/1"
    words = found["words"]
    assert [word["text"].strip() for word in words] and len(words) == 5
    changes = [word["hidden"] for word in words]
    assert changes == sorted(changes)
    # A literal star can be selected by its position.
    star = without(model, "2", "a*a*", "--positions", "--answer", "a")
    assert star["span"]["text"] == "*"


def test_the_views_and_their_files(model: Path, tmp_path: Path) -> None:
    for span, name in (("c", "without"), ("*", "without-words")):
        html, svg = tmp_path / f"{name}.html", tmp_path / f"{name}.svg"
        result = llm("inspect", "without", span, TEXT, "-m", model, "--html", html, "--svg", svg)
        assert result.returncode == 0
        assert "change" in result.stdout.decode() and "change" in html.read_text() and "<svg" in svg.read_text()
        assert result.stderr == b""
        assert "later tokens cannot attend to" in " ".join(html.read_text().split())


def test_the_chat_template_is_not_part_of_the_span(model: Path) -> None:
    found = without(model, "c", TEXT, "--chat", "--answer", "c")
    assert found["span"]["text"] == "c" and len(found["span"]["positions"]) == 1
    words = without(model, "*", "a b", "--chat", "--answer", "c")["words"]
    assert sorted(word["text"].strip() for word in words) == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["z", TEXT], 'does not contain "z"'),
        (["", TEXT], "to leave out is empty"),
        (["9", TEXT, "--positions"], "no tokens 9"),
        (["c", TEXT, "--positions"], "token numbers"),
        (["c", TEXT, "--answer", ""], "answer is empty"),
        (["c", TEXT, "--answer", "d", "-n", "1"], "--answer is measured to its end"),
        (["c", ""], "text is empty"),
    ],
)
def test_invalid_options_are_refused(model: Path, arguments: list[str], words: str) -> None:
    result = llm("inspect", "without", *arguments, "-m", model)
    assert result.returncode == 2 and words in result.stderr.decode() and not result.stdout


def test_long_texts_are_refused(model: Path) -> None:
    result = llm("inspect", "without", "a", "a" * 300, "-m", model, "--answer", "b")
    assert result.returncode == 6 and "256" in result.stderr.decode()
