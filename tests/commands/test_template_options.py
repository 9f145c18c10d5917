"""`--template` and `--template-arg`, from the command line to the tokens that the model is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmcli.commands.options import template_variables
from llmcli.errors import UsageError
from tests.commands.running import llm
from tests.puppet import ASSISTANT, END, USER, write_puppet
from tests.tiny import TEMPLATE, write_text_files

THINKING = TEMPLATE.replace(
    "<|assistant|>{% endif %}", "{{ '<|assistant|>' if enable_thinking is not false else '<|end|>' }}{% endif %}"
)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that says A behind the marker of a reply, and E behind the end of a message."""
    for name in ("LLMCLI_TEMPLATE", "LLMCLI_TEMPLATE_ARG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    a, e = (ord(letter) - 33 for letter in "AE")
    folder = write_puppet(tmp_path / "model", {ASSISTANT: {a: 1.0}, END: {e: 1.0}, a: {END: 1.0}, e: {END: 1.0}})
    write_text_files(folder, template=THINKING)
    return folder


def reply(*arguments: object) -> str:
    result = llm(*arguments, "-t", 0, "-n", 1, "-q")
    assert (result.returncode, result.stderr) == (0, b"")
    return result.stdout.decode().strip()


def generate(model: Path, *arguments: object) -> str:
    return reply("generate", "hi", "-m", model, *arguments)


def test_an_argument_reaches_the_template_as_json(model: Path) -> None:
    assert generate(model) == "A"
    assert generate(model, "--template-arg", "enable_thinking=true") == "A"
    assert generate(model, "--template-arg", "enable_thinking=false") == "E"
    # Not JSON, so a string, which is not false.
    assert generate(model, "--template-arg", "enable_thinking=False") == "A"


def test_a_template_is_chosen_by_name(model: Path) -> None:
    named = model / "additional_chat_templates" / "short.jinja"
    named.parent.mkdir()
    named.write_text("{{ messages[0].content }}<|end|>")
    assert generate(model) == "A"
    assert generate(model, "--template", "short") == "E"
    missing = llm("generate", "hi", "-m", model, "--template", "long")
    assert missing.returncode == 2
    assert b"default, short" in missing.stderr


def test_what_an_argument_spells_is_text(model: Path) -> None:
    write_text_files(model, template="{{ extra }}<|user|>")
    shown = llm("generate", "hi", "-m", model, "-n", 1, "--template-arg", "extra=<|end|>", "--json", "--show-prompt")
    rows = [line for line in shown.stderr.decode().splitlines() if str(END) in line.split()]
    assert (shown.returncode, rows) == (0, [])
    assert str(USER) in shown.stderr.decode()
    assert json.loads(shown.stdout)["prompt"] == "hi"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--template-arg", "enable_thinking"],
        ["--template-arg", "=1"],
        ["--template-arg", "a b=1"],
        ["--template-arg", "messages=[]"],
        ["--template-arg", "self=1"],
        ["--raw", "--template-arg", "a=1"],
        ["--raw", "--template", "default"],
    ],
)
def test_what_makes_no_sense_is_a_usage_error(arguments: list[str], tmp_path: Path) -> None:
    # Before any model is looked for: there is none.
    result = llm("generate", "hi", "-m", tmp_path / "none", *arguments)
    assert result.returncode == 2
    assert b"--template-arg" in result.stderr


def test_a_model_without_a_template_has_no_variables(model: Path) -> None:
    write_text_files(model, template=None)
    result = llm("generate", "hi", "-m", model, "--template-arg", "a=1")
    assert (result.returncode, b"no chat template" in result.stderr) == (2, True)


def test_values_are_json_where_they_are() -> None:
    given = [
        "a=true",
        "b=3",
        "c=x",
        'd={"k": [1]}',
        "e=",
        "f=a=b",
        "g=NaN",
        'h="3"',
        "i=null",
        "a=false",
        "j=" + "[" * 9999,
    ]
    assert template_variables(given) == {
        "a": False, "b": 3, "c": "x", "d": {"k": [1]}, "e": "", "f": "a=b", "g": "NaN", "h": "3", "i": None,
        "j": "[" * 9999,
    }  # fmt: skip
    with pytest.raises(UsageError, match="KEY=VALUE"):
        template_variables(["novalue"])


def test_chat_takes_them_too(model: Path) -> None:
    def chat(*arguments: object) -> str:
        result = llm("chat", "-m", model, "-t", 0, "-n", 1, "-q", *arguments, stdin=b"hi")
        return result.stdout.decode().strip()

    assert chat() == "A"
    assert chat("--template-arg", "enable_thinking=false") == "E"
