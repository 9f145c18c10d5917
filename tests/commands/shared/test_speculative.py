"""`--draft`, `--lookup` and `--draft-tokens` as a user gives them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.models.puppet import loop, write_puppet
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.chat import READY, chatting, leave
from tests.support.terminal.cli import llm

OPTIONS: tuple[object, ...] = ("-t", 0, "-n", 20)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_puppet(tmp_path / "model", loop(b"abcdefg"))


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A model with another vocabulary."""
    folder = tiny_checkpoint(tmp_path / "other", "llama")
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace("<|user|>", "<|human|>"))
    return folder


def asked(model: Path, *arguments: object, env: dict[str, str] | None = None) -> dict[str, Any]:
    result = llm("generate", "hi", "-m", model, "--json", *OPTIONS, *arguments, env=env)
    assert result.returncode == 0, result.stderr.decode()
    reply: dict[str, Any] = json.loads(result.stdout)
    return reply


def origins(reply: dict[str, Any]) -> set[str]:
    return {token["origin"] for token in reply["tokens"]}


def test_speculation_keeps_the_reply_and_marks_drafted_tokens(model: Path) -> None:
    plain = asked(model, "--no-lookup")
    assert origins(plain) == {"model"}
    assert (plain["stats"]["proposed_tokens"], plain["stats"]["tokens_per_pass"]) == (0, None)
    for arguments, proposers in (
        (["--draft", model, "--draft-tokens", 3, "--no-lookup"], {"model", "draft"}),
        (["--lookup", "--draft-tokens", 3], {"model", "lookup"}),
    ):
        reply = asked(model, *arguments)
        assert (reply["text"], origins(reply)) == (plain["text"], proposers)
        stats = reply["stats"]
        assert 0 < stats["accepted_tokens"] <= stats["proposed_tokens"]
        assert stats["acceptance_rate"] == stats["accepted_tokens"] / stats["proposed_tokens"]
        assert stats["tokens_per_pass"] > 1.5


def test_speculation_can_be_set_by_variables_and_the_file(model: Path, home: Path) -> None:
    env = {"LLMCLI_DRAFT": str(model), "LLMCLI_DRAFT_TOKENS": "2", "LLMCLI_LOOKUP": "0"}
    assert origins(asked(model, env=env)) == {"model", "draft"}
    (home / "config" / "llmcli").mkdir(parents=True)
    (home / "config" / "llmcli" / "config.toml").write_text('draft-tokens = "2"\n[generate]\nlookup = true\n')
    assert origins(asked(model)) == {"model", "lookup"}


def test_statistics_and_tables_show_accepted_tokens(model: Path) -> None:
    result = llm("generate", "hi", "-m", model, *OPTIONS, "--lookup", "--draft-tokens", 3, "--probs", "--stats")
    told = result.stderr.decode()
    assert "lookup" in told
    assert "proposed accepted" in told
    assert "tokens a pass" in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--draft-tokens", "16"], "auto or a number from 1 to 15"),
        (["--draft-tokens", "many"], "auto or a number from 1 to 15"),
        (["--draft", "starter", "--record", "x.json"], "--draft does not go with --record"),
    ],
)
def test_invalid_options_are_refused(model: Path, home: Path, arguments: list[str], words: str) -> None:
    arguments = [str(home / each) if each.endswith(".json") else each for each in arguments]
    result = llm("generate", "hi", "-m", model, *arguments)
    assert (result.returncode, result.stdout) == (2, b"")
    assert words in " ".join(result.stderr.decode().split())


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_a_draft_model_with_another_vocabulary_is_refused(model: Path, other: Path, command: str) -> None:
    arguments = ["hi"] if command == "generate" else []
    result = llm(command, *arguments, "-m", model, "--draft", other, stdin=b"hi" if command == "chat" else b"")
    assert (result.returncode, result.stdout) == (2, b"")
    assert "cannot draft for model" in result.stderr.decode()
    assert "vocabularies differ" in result.stderr.decode()


def test_a_chat_continues_without_a_draft_for_a_model_with_another_vocabulary(
    model: Path, other: Path, tmp_path: Path
) -> None:
    options = ("-n", "20", "--draft", str(model), "--draft-tokens", "3", "--no-lookup", "--stats", "--no-save")
    with chatting(tmp_path, model, *options) as child:
        child.sendline("hi")
        child.expect("proposed accepted")
        child.expect_exact(READY)
        child.sendline(f"/model {other}")
        child.expect("generated without a draft model")
        child.expect("Model: other")
        leave(child)
