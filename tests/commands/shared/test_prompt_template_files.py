from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.commands.shared import prompt_template_files
from llmcli.commands.shared.prompt_template_files import PromptTemplate
from llmcli.errors import UsageError
from tests.support.models.puppet import chain, write_puppet
from tests.support.terminal.cli import Result, llm


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


@pytest.fixture
def model(home: Path) -> Path:
    return write_puppet(home / "model", chain(b"ok"))


def asked(result: Result) -> str:
    assert result.returncode == 0, result.stderr
    return str(json.loads(result.stdout)["prompt"])


def test_a_template_is_filled_and_answered(model: Path) -> None:
    saved = llm("prompt", "save", "sum", "Summarise in {words} words:\n{input}")
    assert (saved.returncode, saved.stdout) == (0, b"")
    assert "Places to fill: words, input" in saved.stderr.decode()
    flags = ["-m", model, "--json", "-n", 1, "-T", "sum"]
    assert asked(llm("generate", "a text", *flags, "--param", "words=3")) == "Summarise in 3 words:\na text"
    assert asked(llm("generate", *flags, "--param", "words=x=y", stdin=b"piped\n")) == "Summarise in x=y words:\npiped"
    assert asked(llm("generate", "see:", *flags, "--param", "words=3", stdin=b"p")).endswith("see:\n\np")


def test_text_without_a_placeholder_follows_the_prompt(model: Path) -> None:
    llm("prompt", "save", "fixed", stdin=b"Explain this:\n")
    assert asked(llm("generate", "-m", model, "--json", "-T", "fixed", "-n", 1)) == "Explain this:"
    assert asked(llm("generate", "x", "-m", model, "--json", "-T", "fixed", "-n", 1)) == "Explain this:\n\nx"


def test_only_a_flag_overrides_the_system_prompt_of_a_template(model: Path, home: Path) -> None:
    llm("prompt", "save", "pirate", "{input}", "--system", "Talk like a {who}.")
    flags = ["-m", model, "-T", "pirate", "--param", "who=pirate", "--show-prompt", "-n", 1]

    def system(*more: str, **variables: str) -> str:
        rows = llm("generate", "hi", *flags, *more, env=variables).stderr.decode().splitlines()[1:]
        tokens = [row.split()[2] for row in rows]
        if "<|system|>" not in tokens:
            return ""
        return "".join(tokens[tokens.index("<|system|>") + 1 : tokens.index("<|end|>")]).replace("␣", " ")

    assert system() == "Talk like a pirate."
    assert system(LLMCLI_SYSTEM="Be brief.") == "Talk like a pirate."
    assert system("-s", "Be brief.") == "Be brief."


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["-T", "nope"], "There is no prompt template 'nope'"),
        (["-T", "grete"], "did you mean 'greet'"),
        (["x", "-T", "greet"], "has places to fill: --param name=..."),
        (["-T", "greet", "--param", "name=x"], "The prompt is empty"),
        (
            ["x", "-T", "greet", "--param", "name=x", "--param", "other=y"],
            "no place {other}; its places are name, input",
        ),
        (["x", "-T", "greet", "--param", "nmae=x"], "no place {nmae}; its places are name, input"),
        (["x", "-T", "greet", "--param", "name"], "KEY=VALUE"),
        (["x", "-T", "../greet"], "cannot name"),
        (["x", "--param", "name=x"], "--prompt-template"),
    ],
)
def test_errors_are_usage_errors(arguments: list[str], why: str) -> None:
    llm("prompt", "save", "greet", "Greet {name}: {input}")
    result = llm("generate", "-m", "/nowhere", *arguments)
    assert (result.returncode, result.stdout) == (2, b"")
    assert why in result.stderr.decode()


def test_the_former_name_of_the_group_still_works() -> None:
    assert llm("template", "save", "a", "{input}!").returncode == 0
    listed = [llm(group, "list") for group in ("prompt", "template")]
    assert [result.stdout for result in listed] == [b"a  {input}!\n"] * 2
    assert "│ template " not in llm("--help").stdout.decode()


def test_listing_showing_and_deleting() -> None:
    assert b"There are no prompt templates" in llm("prompt", "list").stderr
    llm("prompt", "save", "b", "Two\nlines")
    llm("prompt", "save", "a", "{input}!", "-s", "S")
    llm("prompt", "save", "a", "{input}?", "-s", "S")
    assert llm("prompt", "list").stdout == b"a  {input}?\nb  Two\n"
    listed = json.loads(llm("prompt", "list", "--json").stdout)
    assert listed[0] == {"name": "a", "prompt": "{input}?", "system": "S", "places": ["input"]}
    shown = llm("prompt", "show", "a")
    assert (shown.stdout, shown.stderr) == (b"{input}?\n", b"System prompt: S\n")
    assert json.loads(llm("prompt", "show", "a", "--json").stdout) == listed[0]
    assert llm("prompt", "rm", "a").returncode == 0
    assert [llm("prompt", action, "a").returncode for action in ("show", "rm")] == [2, 2]
    assert [template.name for template in prompt_template_files.prompt_templates()[0]] == ["b"]


@given(prompt=st.text(st.characters(exclude_categories=["Cs"])), system=st.none() | st.text())
def test_any_text_survives_being_saved(tmp_path_factory: pytest.TempPathFactory, prompt: str, system: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp()))
        template = PromptTemplate("any", prompt, system)
        prompt_template_files.save(template)
        assert prompt_template_files.find("any") == template


@given(text=st.text(), prompt=st.text(alphabet="ab{}1 \"'\n"))
def test_other_braces_are_kept_and_values_are_not_filled_again(text: str, prompt: str) -> None:
    template = PromptTemplate("x", prompt + "{input}{{input}}", None)
    places = [place for place in template.places if place != "input"]
    filled, _ = template.filled(text or "x", dict.fromkeys(places, "{b}"))
    assert filled.endswith((text or "x") + "{input}")
    if "{" not in prompt:
        assert filled == prompt + (text or "x") + "{input}"
    assert PromptTemplate("j", '{"a": {"b": 1}}').filled("", {})[0] == '{"a": {"b": 1}}'


@pytest.mark.parametrize(
    "content", ["prompt = 1", "system = 'x'", "prompt = 'x'\nmodel = 'y'", "prompt = 'x'\nsystem = 1", "prompt ="]
)
def test_damaged_files_are_named(content: str) -> None:
    folder = prompt_template_files.template_folder()
    folder.mkdir(parents=True)
    (folder / "bad.toml").write_text(content)
    with pytest.raises(UsageError, match=r"bad\.toml"):
        prompt_template_files.find("bad")
    llm("prompt", "save", "sound", "Hi")
    listed = llm("prompt", "list")
    assert (listed.returncode, listed.stdout) == (0, b"sound  Hi\n") and b"bad.toml" in listed.stderr
    # The damaged file is kept, because its owner may want to repair it.
    saved = llm("prompt", "save", "bad", "good")
    assert saved.returncode == 0 and b"bad.damaged-1" in saved.stderr
    assert (folder / "bad.damaged-1").read_text() == content
    assert prompt_template_files.find("bad").prompt == "good"
