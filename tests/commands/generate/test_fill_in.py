"""`llm generate --fill-in` and `--control-tokens`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.models.puppet import SYSTEM, USER, chain, ids_of, write_puppet
from tests.support.terminal.cli import llm

TOKENS = {"<|user|>": "<|fim_prefix|>", "<|assistant|>": "<|fim_suffix|>", "<|system|>": "<|fim_middle|>"}


@pytest.fixture(scope="module")
def coder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that writes `xy` after the middle token, and then the prefix token."""
    x, y = ids_of(b"xy")
    transitions = {SYSTEM: {x: 1.0}, x: {y: 1.0}, y: {USER: 1.0}, USER: {x: 1.0}}
    folder = write_puppet(tmp_path_factory.mktemp("coder") / "m", transitions)
    text = (folder / "tokenizer.json").read_text()
    for old, new in TOKENS.items():
        text = text.replace(old, new)
    (folder / "tokenizer.json").write_text(text)
    return folder


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_puppet(tmp_path_factory.mktemp("speaker") / "m", chain(b"ok"))


def test_the_gap_is_filled_and_the_reply_ends_at_the_next_marker(coder: Path) -> None:
    result = llm("generate", "--fill-in", "a<|end|>", "b", "-m", coder, "--json", stdin=b"not read")
    assert result.returncode == 0, result.stderr
    reply = json.loads(result.stdout)
    assert (reply["prompt"], reply["suffix"], reply["text"]) == ("a<|end|>", "b", "xy")
    assert (reply["finish_reason"], len(reply["tokens"])) == ("stop", 2)
    # BOS, three markers, and every character.
    assert reply["prompt_tokens"] == 1 + 3 + len("a<|end|>b")
    assert llm("generate", "--fill-in", "a", "", "-m", coder).stdout == b"xy\n"


def test_a_model_without_fill_in_tokens_is_refused_with_the_reason(speaker: Path) -> None:
    result = llm("generate", "--fill-in", "a", "b", "-m", speaker)
    assert (result.returncode, result.stdout) == (2, b"")
    assert "was not trained to fill in" in " ".join(result.stderr.decode().split())


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["hi"], "a prompt"),
        (["--raw"], "--raw"),
        (["--system", "s"], "--system"),
        (["--prefill", "s"], "--prefill"),
        (["--json-schema", "{}"], "--json-schema"),
        (["--template-arg", "a=1"], "--template-arg"),
        (["--choices", "a,b"], "--choices"),
        (["--readable"], "--readable is for --choices"),
        (["--control-tokens"], "--control-tokens"),
        (["--record", "r.json"], "--record"),
    ],
)
def test_other_prompt_options_are_refused_with_fill_in(coder: Path, flags: list[str], named: str) -> None:
    result = llm("generate", *flags, "--fill-in", "a", "b", "-m", coder)
    assert result.returncode == 2
    assert named in " ".join(result.stderr.decode().split())


def test_environment_variables_for_conversations_are_ignored_by_fill_in(coder: Path) -> None:
    env = {"LLMCLI_SYSTEM": "Be brief.", "LLMCLI_PREFILL": "x"}
    assert llm("generate", "--fill-in", "a", "b", "-m", coder, env=env).stdout == b"xy\n"


def test_control_tokens_in_a_trusted_raw_prompt(speaker: Path) -> None:
    prompt = "<|user|>hi<|end|><|user|>a<|assistant|>"
    flags = ["generate", prompt, "-m", speaker, "--raw", "--json"]
    plain = llm(*flags)
    own = llm(*flags, "--control-tokens")
    assert json.loads(own.stdout)["text"] == "ok"
    assert json.loads(own.stdout)["prompt_tokens"] == 1 + 4 + len("hia")
    assert json.loads(plain.stdout)["prompt_tokens"] == 1 + len(prompt)
    said = " ".join(own.stderr.decode().split())
    assert "Control tokens in the prompt: <|user|> (2 times), <|end|>, <|assistant|>." in said
    assert "Control tokens" not in plain.stderr.decode()
    assert llm(*flags, "--control-tokens", "--quiet").stderr == b""


def test_bos_is_not_added_twice_and_missing_control_tokens_are_noted(speaker: Path) -> None:
    flags = ["-m", speaker, "--raw", "--control-tokens", "--json", "-n", 1]
    begun = llm("generate", "<|bos|>x", *flags)
    assert json.loads(begun.stdout)["prompt_tokens"] == 2
    without = llm("generate", "<|bos|x", *flags)
    assert json.loads(without.stdout)["prompt_tokens"] == 1 + len("<|bos|x")
    assert b"Control tokens in the prompt: <|bos|>." in begun.stderr
    assert b"Control tokens in the prompt: none." in without.stderr


def test_control_tokens_need_raw(speaker: Path) -> None:
    result = llm("generate", "<|user|>", "-m", speaker, "--control-tokens")
    assert result.returncode == 2
    assert b"--control-tokens is for --raw" in result.stderr
    # An environment variable for every command does not change a conversation.
    env = {"LLMCLI_CONTROL_TOKENS": "1"}
    assert llm("generate", "<|end|>", "-m", speaker, env=env).stdout == b"ok\n"
