"""`--chat-template` and `--template-arg`, from the command line to the tokens of the prompt."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

from llmcli.commands.shared.options.flags import OTHER_SPELLINGS
from llmcli.commands.shared.options.prompt import template_variables
from llmcli.errors import UsageError
from tests.support.models.puppet import ASSISTANT, END, SYSTEM, USER, ids_of, write_puppet
from tests.support.models.tiny import TEMPLATE, write_text_files
from tests.support.terminal.cli import llm

THINKING = TEMPLATE.replace(
    "<|assistant|>{% endif %}", "{{ '<|assistant|>' if enable_thinking is not false else '<|end|>' }}{% endif %}"
)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that writes A after the marker of a reply, and E after the end of a message."""
    for name in ("LLMCLI_TEMPLATE", "LLMCLI_CHAT_TEMPLATE", "LLMCLI_TEMPLATE_ARG"):
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
    # As Python and YAML write it.
    for spelled in ("False", "FALSE"):
        assert generate(model, "--template-arg", f"enable_thinking={spelled}") == "E"
    assert generate(model, "--template-arg", 'enable_thinking="false"') == "A"


def test_a_template_is_chosen_by_name(model: Path) -> None:
    named = model / "additional_chat_templates" / "short.jinja"
    named.parent.mkdir()
    named.write_text("{% for m in messages %}{{ m.content }}<|end|>{% endfor %}")
    assert generate(model) == "A"
    assert generate(model, "--chat-template", "short") == "E"
    missing = llm("generate", "hi", "-m", model, "--chat-template", "long")
    assert missing.returncode == 2
    assert b"default, short" in missing.stderr


def test_control_tokens_in_a_template_argument_are_text(model: Path) -> None:
    write_text_files(model, template="{{ extra }}<|user|>{{ messages[0].content }}")
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
        ["--raw", "--chat-template", "default"],
    ],
)
def test_invalid_options_are_usage_errors(arguments: list[str], tmp_path: Path) -> None:
    # Refused before the model is looked up: this one does not exist.
    result = llm("generate", "hi", "-m", tmp_path / "none", *arguments)
    assert result.returncode == 2
    assert b"--template-arg" in result.stderr


def test_a_model_without_a_template_has_no_variables(model: Path) -> None:
    write_text_files(model, template=None)
    result = llm("generate", "hi", "-m", model, "--template-arg", "a=1")
    assert (result.returncode, b"no chat template" in result.stderr) == (2, True)


def test_template_values_are_parsed_as_json_if_valid() -> None:
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


def test_chat_accepts_template_arguments(model: Path) -> None:
    def chat(*arguments: object) -> str:
        result = llm("chat", "-m", model, "-t", 0, "-n", 1, "-q", *arguments, stdin=b"hi")
        return result.stdout.decode().strip()

    assert chat() == "A"
    assert chat("--template-arg", "enable_thinking=false") == "E"


@pytest.mark.parametrize("command", ["generate", "batch", "chat"])
def test_an_unread_template_variable_is_noted_with_a_similar_name(model: Path, command: str) -> None:
    arguments = {"generate": ["generate", "hi"], "batch": ["batch", "-"], "chat": ["chat"]}[command]
    lines = b'{"prompt": "hi"}\n{"prompt": "ho"}\n' if command == "batch" else b"hi"
    given = ["--template-arg", "enable_thnking=False"]
    result = llm(*arguments, "-m", model, "-n", 1, *given, stdin=b"" if command == "generate" else lines)
    notes = [line for line in result.stderr.decode().splitlines() if "enable_thnking" in line]
    assert result.returncode == 0 and len(notes) == 1 and "did you mean 'enable_thinking'?" in notes[0]
    quiet = llm(*arguments, "-m", model, "-n", 1, *given, "-q", stdin=b"" if command == "generate" else lines)
    assert (quiet.returncode, quiet.stderr) == (0, b"")


@pytest.mark.parametrize("place", ["variable", "file"])
def test_template_options_in_the_settings_file(model: Path, place: str, tmp_path: Path) -> None:
    other = tmp_path / "other.jinja"
    other.write_text("{% for m in messages %}{{ m.content }}<|end|>{% endfor %}")
    assert generate(model, "--chat-template", other) == "E"
    if place == "variable":
        env = {"LLMCLI_TEMPLATE_ARG": "enable_thinking=False x=1", "LLMCLI_CHAT_TEMPLATE": "default"}
    else:
        env = {}
        (tmp_path / "config" / "llmcli").mkdir(parents=True)
        settings = 'template_arg = ["enable_thinking=False", "x=1"]\nchat-template = "default"\n'
        (tmp_path / "config" / "llmcli" / "config.toml").write_text(settings)
    result = llm("generate", "hi", "-m", model, "-t", 0, "-n", 1, env=env)
    assert result.stdout.strip() == b"E" and b"does not read 'x'" in result.stderr


@pytest.mark.parametrize("flag", ["--chat-template", "--template"])
def test_a_template_can_be_read_from_a_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine.jinja", "mine"):
        Path(name).write_text("{% for m in messages %}{{ m.content }}<|end|>{% endfor %}")
        assert generate(model, flag, name) == "E"
        assert generate(model, flag, f"./{name}") == "E"
    (tmp_path / "in.jsonl").write_text('{"prompt": "hi"}\n')
    assert json.loads(reply("batch", "in.jsonl", "-m", model, flag, "mine.jinja"))["text"] == "E"
    chat = llm("chat", "-m", model, "-t", 0, "-n", 1, "-q", flag, "mine", stdin=b"hi")
    assert chat.stdout.decode().strip() == "E"
    for command in (["inspect", "tokens", "hi"], ["score", "hi"]):
        shown = llm(*command, "-m", model, "--chat", "--chat-template", "mine", "--json")
        assert len(json.loads(shown.stdout)["tokens"]) == 3
        raw = llm(*command, "-m", model, "--chat-template", "mine")
        assert raw.returncode == 2 and b"--chat-template is for --chat" in raw.stderr
    # A template of the model takes precedence over a file of that name.
    Path("default").write_text("nothing of the kind")
    assert generate(model, flag, "default") == "A"


@pytest.mark.parametrize("command", ["generate", "chat", "batch"])
def test_spellings_of_other_programs_work_and_are_not_listed(command: str) -> None:
    shown = llm(command, "--help").stdout.decode()
    for spelling, name in OTHER_SPELLINGS.items():
        values = [
            next(setting["value"] for setting in found["settings"] if setting["flag"] == name)
            for flag in (spelling, name)
            for found in [
                json.loads(llm("config", "--json", command, *(["x"] if command == "batch" else []), flag, "1").stdout)
            ]
        ]
        assert values[0] == values[1] is not None
        assert re.search(rf"{name}\b", shown) and not re.search(rf"{spelling}(?![-\w])", shown)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("./none.jinja", None, "cannot be read: No such file"),
        ("none.jinja", None, "cannot be read"),
        ("./empty.jinja", b" \n", "is empty"),
        ("./odd.jinja", b"\xff\xfe", "is empty"),
        ("./odd.jinja", b"{{ 'caf\xe9' }}", "is not UTF-8: the byte at offset 7 is 0xe9. Save it as UTF-8."),
        ("./odd.jinja", b"\xff\xfea", "is not UTF-16 (little-endian), as its byte order mark says"),
        (
            "./wide.jinja",
            "{{ messages[0].content }}".encode("utf-16-le"),
            "has NUL bytes, the first at offset 1, and looks like UTF-16",
        ),
        ("./folder", b"", "cannot be read"),
    ],
)
def test_an_invalid_template_file_is_named_in_the_error(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes | None, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "./folder":
        Path(name).mkdir()
    elif data is not None:
        Path(name).write_bytes(data)
    result = llm("generate", "hi", "-m", model, "--chat-template", name)
    assert result.returncode == 2 and f"The chat template {name} {why}" in result.stderr.decode()


def test_a_damaged_template_fails_only_commands_that_use_it(model: Path, tmp_path: Path) -> None:
    write_text_files(model, template="{% for m in messages %}{{ m.content }")
    for command in (["generate", "--raw", "hi"], ["score", "hi there"], ["inspect", "tokens", "hi"], ["show"]):
        target = [model] if command == ["show"] else ["-m", model]
        assert llm(*command, *target).returncode == 0
    shown = llm("show", model).stdout.decode()
    assert "chat template  from tokenizer_config.json" in shown and "error in line 1" in " ".join(shown.split())
    for command in (["generate", "hi"], ["chat"], ["inspect", "tokens", "hi", "--chat"]):
        result = llm(*command, "-m", model, stdin=b"hi" if command == ["chat"] else b"")
        assert (result.returncode, result.stdout) == (4, b"") and b"has an error in line 1" in result.stderr
    # Another one helps.
    other = tmp_path / "other.jinja"
    other.write_text(THINKING)
    assert generate(model, "--chat-template", other) == "A"


@pytest.mark.parametrize("blank", ["", " \n\t"])
def test_an_empty_template_counts_as_none(model: Path, blank: str) -> None:
    write_text_files(model, template=blank)
    result = llm("generate", "hi", "-m", model, "-n", 1)
    assert result.returncode == 0 and b"no chat template" in result.stderr
    (model / "chat_template.json").write_text(json.dumps({"chat_template": THINKING}))
    assert generate(model) == "A"


@pytest.mark.parametrize("command", ["generate", "batch", "chat"])
def test_a_system_prompt_that_the_template_drops_precedes_the_prompt_or_is_refused(model: Path, command: str) -> None:
    write_text_files(model, template=TEMPLATE.replace("in messages", "in messages if message['role'] != 'system'"))
    arguments = {"generate": ["generate", "hi"], "batch": ["batch", "-"], "chat": ["chat"]}[command]
    stdin = {"generate": b"", "batch": b'{"prompt": "hi"}\n{"prompt": "ho"}\n', "chat": b"hi"}[command]
    flags = ["-m", model, "-t", 0, "-n", 1, "-s", "Be odd."]
    result = llm(*arguments, *flags, stdin=stdin)
    assert result.returncode == 0 and result.stderr.count(b"does not write a system prompt") == 1
    strict = llm(*arguments, *flags, "--strict-system", stdin=stdin)
    said = strict.stderr + strict.stdout
    assert b"Without --strict-system it is put before" in said
    if command == "generate":
        assert (strict.returncode, strict.stdout) == (2, b"")
        shown = llm("generate", "hi", *flags, "--json")
        plain = llm("generate", "Be odd.\n\nhi", *flags[:-2], "--json")
        assert json.loads(shown.stdout)["prompt_tokens"] == json.loads(plain.stdout)["prompt_tokens"]


@pytest.mark.parametrize("command", ["generate", "batch", "chat"])
@pytest.mark.parametrize("end", ["<|system|>", "</t>\n"])
def test_a_reply_ends_where_the_template_ends_a_turn(tmp_path: Path, command: str, end: str) -> None:
    # The files declare <|end|>; at the end of its turn the model writes something else and continues.
    a = ids_of(b"A")[0]
    over = [SYSTEM] if end == "<|system|>" else ids_of(end.encode())
    chain = [ASSISTANT, a, *over]
    transitions = {before: {after: 1.0} for before, after in itertools.pairwise([*chain, ids_of(b"B")[0]])}
    folder = write_puppet(tmp_path / "model", {**transitions, ids_of(b"B")[0]: {ids_of(b"B")[0]: 1.0}})
    write_text_files(folder, template=TEMPLATE.replace("<|end|>", end))
    arguments = {"generate": ["generate", "hi"], "batch": ["batch", "-"], "chat": ["chat"]}[command]
    stdin = {"generate": b"", "batch": b'{"prompt": "hi"}', "chat": b"hi"}[command]
    said = llm(*arguments, "-m", folder, "-t", 0, "-n", 9, "-q", stdin=stdin).stdout.decode()
    assert (json.loads(said)["text"] if command == "batch" else said.strip()) == "A"
    if command == "generate":
        whole = json.loads(llm("generate", "hi", "-m", folder, "-t", 0, "-n", 9, "--json").stdout)
        assert (whole["text"], whole["finish_reason"]) == ("A", "stop")
        # A text to continue is not a turn.
        raw = json.loads(llm("generate", "A", "--raw", "-m", folder, "-t", 0, "-n", 9, "--json").stdout)
        assert raw["text"].endswith("BBBB") and raw["finish_reason"] == "length"
        shown = " ".join(llm("show", folder).stdout.decode().split())
        assert ("the template ends a turn with it" if end == "<|system|>" else "ends a turn with '</t>'") in shown
