"""Invalid command lines, and the advice that the program gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.terminal.cli import Result, llm


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = tmp_path / "llmcli" / "config.toml"
    path.parent.mkdir()
    return path


def said(result: Result) -> str:
    assert (result.returncode, result.stdout) == (2, b""), result
    return " ".join(result.stderr.decode().split())


@pytest.mark.parametrize(
    ("text", "words", "line"),
    [
        ('seed = 1\ntemperature = "hot"\n', ["generate", "Hi"], 2),
        ('\n[generate]\ntemperature = 0\n[inspect]\n"max_tokens" = 1\n', ["inspect", "tokens", "Hi"], None),
        ('top-k = 1\n\n[generate]\ntop_k = "many"\n', ["generate", "Hi"], 4),
        ('top_k = "many"\n[chat]\ntop_k = 3\n', ["score", "Hi"], None),
        ("stop = 5\n", ["generate", "Hi"], 1),
        ("seed = 1\nquiet = 2\n", ["generate", "Hi"], 2),
        ("[chat]\ntemperature = true\n", ["chat"], 2),
        ("max-tokens = 2.5\n", ["generate", "Hi"], 1),
        ("model = 5\n", ["generate", "Hi"], 1),
        ("temperature = 1\ntop_p = 1\nseed = '3'\nstop = ['a']\nstats = false\n", ["generate", "Hi"], None),
        ('generate.temperature = "hot"', ["generate", "Hi"], 0),
    ],
)
def test_a_setting_of_the_wrong_type_is_named_with_its_line(
    text: str, words: list[str], line: int | None, settings: Path
) -> None:
    settings.write_text(text)
    result = llm(*words, "-m", "./none")
    if line is None:
        assert b"cannot be used" not in result.stderr
        return
    at = f", line {line}" if line else ""
    message = said(result)
    assert message.startswith(f"llm: {settings}{at}: the value of ") and "cannot be used" in message
    assert "--temperature" not in message


def test_a_flag_or_variable_of_the_wrong_type_is_named(settings: Path) -> None:
    settings.write_text("temperature = 1\n")
    assert "--temperature" in said(llm("generate", "Hi", "--temperature", "hot"))
    message = said(llm("generate", "Hi", env={"LLMCLI_TEMPERATURE": "hot"}))
    assert message.startswith("llm: The environment variable LLMCLI_TEMPERATURE cannot be used: 'hot'")


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["run", "llama3"], "There is no command 'run'; llm generate"),
        (["What is this?"], "'What is this?' is no command; llm generate"),
        (["prompt", "What is this?"], "'What is this?' is no command; llm generate"),
        (["ls"], "llm list shows"),
        (["config", "set", "temperature", "1"], "config.toml: a line such as temperature = 0.5"),
        (["config", "temperature"], "config.toml: a line such as temperature = 0.5"),
        (["chat", "question"], "There is no file 'question' to talk about. A model is given with -m. For a question,"),
        (["chat", "."], ". is not a text file. A model is given with -m: llm chat -m .."),
        (["chat", "a.gguf"], "llm chat -m a.gguf"),
        (["generate", "what", "is", "this"], 'in quotes, as in llm generate "What is this?".'),
        (["inspect", "tokens", "what", "is", "this"], 'in quotes, as in llm inspect tokens "What is this?".'),
        (["bench", "-m", "x"], "llm bench takes the model without a flag: llm bench MODEL."),
        (["show", "--model", "x"], "llm show takes the model without a flag: llm show MODEL."),
    ],
)
def test_the_message_says_what_to_do_instead(words: list[str], advice: str, settings: Path) -> None:
    message = said(llm(*words))
    assert message.startswith("llm: ") and advice in message


def test_other_usage_errors_keep_their_message(settings: Path) -> None:
    assert "No such command 'edti'. Did you mean 'edit'?" in said(llm("edti"))
    assert "No such option: --modle" in said(llm("bench", "--modle", "x"))
    assert "unexpected extra argument" in said(llm("list", "x"))
