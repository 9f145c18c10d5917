from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

import llmcli
from llmcli.inspection.residual.logit_lens import lens
from llmcli.views.terminal.to_json import plain
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model"), "llama", tie_word_embeddings=True)


def test_json_has_the_lens_of_each_position(model: Path) -> None:
    result = llm("inspect", "lens", "abc", "-m", model, "--json", "--position", 1, "--position", -1, "--top", 2)
    found = json.loads(result.stdout)
    loaded = llmcli.load(model, dtype="float32")
    expected = plain(lens(loaded, loaded.tokenizer.encode("abc"), [1, 3], top=2))
    assert found.pop("schema") == "llmcli.lens/1"
    assert found == expected
    assert [base64.b64decode(token["bytes"]) for token in found["tokens"]] == [b"<|bos|>", b"a", b"b", b"c"]
    assert [len(layer["top"]) for layer in found["lens"][0]["layers"]] == [2, 2, 2, 2]


@pytest.mark.parametrize(("length", "shown"), [(39, range(40)), (40, range(33, 41))])
def test_only_the_end_of_a_long_text_is_shown(model: Path, length: int, shown: range) -> None:
    found = json.loads(llm("inspect", "lens", "-", "-m", model, "--json", stdin=b"x" * length).stdout)
    assert [position["position"] for position in found["lens"]] == list(shown)


def test_the_view_goes_to_stdout_and_into_files(model: Path, tmp_path: Path) -> None:
    html, svg = tmp_path / "l.html", tmp_path / "l.svg"
    result = llm("inspect", "lens", "a<b", "-m", model, "--html", html, "--svg", svg)
    assert "block <|bos|>" in result.stdout.decode()
    assert result.stderr == b""
    page = html.read_text(encoding="utf-8")
    assert "&lt;|bos|&gt;" in page
    assert "expect noise" in page
    assert "tied embeddings" in " ".join(page.split())
    assert "<svg" in svg.read_text(encoding="utf-8")


def test_chat_adds_the_tokens_of_the_template(model: Path) -> None:
    found = json.loads(llm("inspect", "lens", "a", "-m", model, "--json", "--chat").stdout)
    assert "".join(token["text"] for token in found["tokens"]) == "<|bos|><|user|>a<|end|><|assistant|>"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["a", "--position", "2"], "no token 2"), ([""], "empty"), (["a", "--top", "0"], "top")],
)
def test_invalid_options_are_usage_errors(model: Path, arguments: list[str], complaint: str) -> None:
    result = llm("inspect", "lens", *arguments, "-m", model)
    assert (result.returncode, result.stdout) == (2, b"")
    assert complaint in result.stderr.decode()
