from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from tests.support.models.tiny import write_text_files
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("m"), "llama")


def test_json_has_the_bytes_of_every_token(model: Path) -> None:
    text = "né\x1b <|bos|>"
    result = json.loads(llm("inspect", "tokens", text, "-m", model, "--json").stdout)
    assert result["schema"] == "llmcli.tokens/1"
    assert result["tokens"][0]["control"]
    assert not any(token["control"] for token in result["tokens"][1:])
    assert b"".join(base64.b64decode(token["bytes"]) for token in result["tokens"][1:]) == text.encode()
    assert (result["characters"], result["bytes"]) == (len(text), len(text.encode()))
    for piped in ([], ["-"]):
        again = llm("inspect", "tokens", *piped, "-m", model, "--json", stdin=text.encode())
        assert json.loads(again.stdout) == result


def test_chat_shows_the_tokens_of_the_template(model: Path, tmp_path: Path) -> None:
    result = json.loads(llm("inspect", "tokens", "hi", "-m", model, "--json", "--chat").stdout)
    assert [token["piece"] for token in result["tokens"]] == [
        "<|bos|>", "<|user|>", "h", "i", "<|end|>", "<|assistant|>",
    ]  # fmt: skip
    folder = tiny_checkpoint(tmp_path / "m", "llama")
    write_text_files(folder, template=None)
    refused = llm("inspect", "tokens", "hi", "-m", folder, "--chat")
    assert (refused.returncode, b"no chat template" in refused.stderr) == (2, True)


def test_the_tokens_are_shown_and_written_to_files(model: Path, tmp_path: Path) -> None:
    html, svg = tmp_path / "a.html", tmp_path / "a.svg"
    shown = llm("inspect", "tokens", "a <b>", "-m", model, "--html", html, "--svg", svg)
    assert shown.stdout.decode().splitlines()[0] == "<|bos|>│a│␣│<│b│>"
    assert "&lt;" in html.read_text() and "<b>" not in html.read_text()
    assert svg.read_text().startswith("<svg")


@pytest.mark.parametrize("arguments", [[""], ["-"], []])
def test_no_text_is_a_usage_error(model: Path, arguments: list[str]) -> None:
    assert llm("inspect", "tokens", *arguments, "-m", model).returncode == 2
