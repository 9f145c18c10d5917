"""Text that is not UTF-8, from every source: it is decoded correctly, or refused with the reason."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from tests.support.models.puppet import chain, write_puppet
from tests.support.terminal.cli import Result, llm

TEXT = "café “q”"
WINDOWS = TEXT.encode("cp1252")
NOT_UTF_8 = "is not UTF-8: the byte at offset 3 is 0xe9. Say how it is encoded, as in --encoding cp1252"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_puppet(tmp_path_factory.mktemp("model") / "speaker", chain(b"ok"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(("LLMCLI_", "XDG_")) and name != "XDG_CACHE_HOME"]:
        monkeypatch.delenv(name)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home" / "llmcli"


def argument(text: bytes) -> str:
    """The string that Python makes from an argument of these bytes."""
    return os.fsdecode(text)


def prompt_of(result: Result) -> str:
    assert result.returncode == 0, result
    return str(json.loads(result.stdout)["prompt"])


def spelled(result: Result) -> str:
    """The text of the tokens in a command's JSON."""
    assert result.returncode == 0, result
    return "".join(token["text"] for token in json.loads(result.stdout)["tokens"])


@pytest.mark.parametrize(
    ("data", "flags"),
    [
        (TEXT.encode("utf-8-sig"), []),
        (TEXT.encode("utf-16"), []),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), []),
        (TEXT.encode("utf-32"), []),
        (TEXT.encode("utf-16-le"), ["--encoding", "utf-16-le"]),
        (WINDOWS, ["--encoding", "cp1252"]),
        (TEXT.encode("koi8-r", errors="ignore"), ["--encoding", "KOI8-R"]),
    ],
)
def test_standard_input_and_files_are_read_alike(model: Path, data: bytes, flags: list[str]) -> None:
    text = data.decode(flags[1]) if flags else TEXT
    assert prompt_of(llm("generate", "-m", model, "--json", *flags, stdin=data)) == text
    Path("text").write_bytes(data)
    scored = json.loads(llm("score", "text", "-m", model, "--json", *flags).stdout)
    assert len(scored["tokens"]) == len(text.encode()) + 1
    looked = json.loads(llm("inspect", "tokens", "-m", model, "--json", *flags, stdin=data).stdout)
    assert looked["bytes"] == len(text.encode())


@pytest.mark.parametrize(
    ("arguments", "source"),
    [
        (["generate"], "Standard input"),
        (["generate", "-"], "Standard input"),
        (["score"], "Standard input"),
        (["score", "FILE"], "FILE"),
        (["inspect", "tokens"], "Standard input"),
        (["compare", "x", "x", "-"], "Standard input"),
        (["trace", "-", "--subject", "x"], "Standard input"),
        (["edit", "caf", "--subject", "x", "--to", "y", "--corpus", "FILE"], "FILE"),
        (["chat", "FILE"], "FILE"),
        (["generate", "hi", "--json-schema", "FILE"], "FILE"),
        (["generate", "hi", "--grammar", "FILE"], "FILE"),
        (["replay", "FILE"], "FILE"),
        (["prompt", "save", "t"], "Standard input"),
        (["generate", "TEXT"], "The prompt"),
        (["generate", "hi", "-s", "TEXT"], "--system"),
        (["generate", "hi", "--stop", "ok", "--stop", "TEXT"], "--stop"),
        (["generate", "hi", "--prefill", "TEXT"], "--prefill"),
        (["generate", "hi", "--choices", "TEXT"], "--choices"),
        (["generate", "hi", "--regex", "TEXT"], "--regex"),
        (["generate", "--fill-in", "ok", "TEXT"], "--fill-in"),
        (["score", "TEXT"], "The text"),
        (["inspect", "tokens", "TEXT"], "The text"),
        (["compare", "x", "x", "--prompt", "TEXT"], "--prompt"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_every_command_refuses_text_that_is_not_utf_8(model: Path, arguments: list[str], source: str) -> None:
    Path("FILE").write_bytes(WINDOWS)
    given = [argument(WINDOWS) if each == "TEXT" else each for each in arguments]
    stdin = WINDOWS if source == "Standard input" else b""
    result = llm(*given, stdin=stdin, env={"LLMCLI_MODEL": str(model)})
    told = result.stderr.decode()
    assert (result.returncode, result.stdout) == (2, b""), told
    assert f"{source} {NOT_UTF_8}" in told, told


@pytest.mark.parametrize(
    "flags",
    [["-s", "TEXT"], ["--template-arg", "a=TEXT"], ["--prefill", "TEXT"], ["--stop", "TEXT"]],
    ids=" ".join,
)
def test_encoding_applies_to_arguments(model: Path, flags: list[str]) -> None:
    given = [argument(flag.encode().replace(b"TEXT", WINDOWS)) for flag in flags]
    assert prompt_of(llm("generate", argument(WINDOWS), *given, "-m", model, "--json", "--encoding", "cp1252")) == TEXT
    # Arguments that are valid UTF-8 are not decoded again.
    assert prompt_of(llm("generate", TEXT, "-m", model, "--json", "--encoding", "cp1252")) == TEXT


def test_the_encoding_can_be_set(model: Path, home: Path) -> None:
    flags = ["generate", "-m", model, "--json"]
    assert prompt_of(llm(*flags, stdin=WINDOWS, env={"LLMCLI_ENCODING": "cp1252"})) == TEXT
    home.mkdir(parents=True)
    (home / "config.toml").write_text('encoding = "cp1252"')
    assert prompt_of(llm(*flags, stdin=WINDOWS)) == TEXT
    assert spelled(llm("inspect", "tokens", "-m", model, "--json", stdin=b"a\x93")).endswith("a\ufffd\ufffd\ufffd")
    wrong = llm(*flags, "--encoding", "cp12521", stdin=WINDOWS)
    assert wrong.returncode == 2 and b"'cp12521' is not an encoding of text" in wrong.stderr


def test_utf_16_without_a_byte_order_mark_and_nuls_are_reported(model: Path) -> None:
    wide = llm("generate", "-m", model, stdin="hello world".encode("utf-16-be"))
    assert (wide.returncode, wide.stdout) == (2, b"")
    told = b"looks like UTF-16 (big-endian) without a byte order mark. Read it with --encoding utf-16-be."
    assert told in wide.stderr
    stray = llm("generate", "-m", model, "-t", 0, stdin=b"hi\0 there")
    assert (stray.returncode, stray.stdout) == (0, b"ok\n") and b"has NUL characters" in stray.stderr
    assert llm("generate", "-m", model, "-q", stdin=b"hi\0 there").stderr == b""


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_chat_templates_are_read_as_windows_editors_write_them(model: Path, encoding: str) -> None:
    Path("mine.jinja").write_bytes(f"{TEXT}{{{{ messages[-1]['content'] }}}}".encode(encoding))
    shown = llm("inspect", "tokens", "hi", "-m", model, "--chat", "--chat-template", "./mine.jinja", "--json")
    assert shown.returncode == 0, shown
    found = b"".join(base64.b64decode(token["bytes"]) for token in json.loads(shown.stdout)["tokens"])
    assert found.decode() == f"{TEXT}hi"


def test_an_attached_file_with_nuls_is_refused_with_the_reason(model: Path) -> None:
    Path("odd.txt").write_bytes(b"a\0b")
    result = llm("chat", "odd.txt", "-m", model)
    assert (result.returncode, result.stdout) == (2, b"") and b"it has NUL characters" in result.stderr


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_settings_and_prompt_templates_are_read_as_windows_editors_write_them(
    model: Path, home: Path, encoding: str
) -> None:
    (home / "templates").mkdir(parents=True)
    (home / "config.toml").write_bytes(f"model = '{model}'\r\n[generate]\r\nseed = 1\r\n".encode(encoding))
    (home / "templates/t.toml").write_bytes('prompt = """é {input}\r\nx"""\r\n'.encode(encoding))
    assert prompt_of(llm("generate", "hi", "-T", "t", "--json")) == "é hi\nx"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("config.toml", ["list"]), ("templates/t.toml", ["generate", "hi", "-T", "t"])],
)
def test_settings_and_templates_that_are_not_utf_8_are_named(home: Path, name: str, arguments: list[str]) -> None:
    (home / "templates").mkdir(parents=True)
    for data, told in (
        (b"a = '\xe9'", "is not UTF-8: the byte at offset 5 is 0xe9. Save it as UTF-8."),
        (
            "model = 'x'\n".encode("utf-16-le"),
            "looks like UTF-16 (little-endian) without a byte order mark.",
        ),
    ):
        (home / name).write_bytes(data)
        result = llm(*arguments)
        assert result.returncode == 2 and f"{home / name} " in result.stderr.decode() and told in result.stderr.decode()


def test_batch_files_are_decoded(model: Path) -> None:
    lines = '{"prompt": "é"}\r\n{"prompt": "hi"}\n'
    flags = ["batch", "-", "-m", model, "-n", 1, "-t", 0, "--seed", 1]
    plain = llm(*flags, stdin=lines.encode())
    assert plain.returncode == 0
    for data, more in (
        (lines.encode("utf-16"), []),
        (lines.encode("utf-8-sig"), []),
        (lines.encode("cp1252"), ["--encoding", "cp1252"]),
    ):
        # With equal marks, so that a batch can be resumed after its file was converted to another encoding.
        assert llm(*flags, *more, stdin=data).stdout == plain.stdout
    assert llm(*flags, stdin=lines.encode("utf-16-le")).returncode == 2
    one = llm(*flags, stdin=lines.encode("cp1252"))
    assert one.returncode == 1 and b"The line is not UTF-8: the byte at offset 12 is 0xe9" in one.stdout


@pytest.mark.parametrize("name", ["nosuch.txt", "notes.md", "a/b", "./a", "~/essay", "data.json"])
def test_a_missing_file_is_not_scored_as_text(name: str, model: Path) -> None:
    refused = llm("score", name, "-m", model)
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert f"There is no file {name!r}. If it is the text itself, pipe it in" in " ".join(
        refused.stderr.decode().split()
    )
    assert spelled(llm("score", "-", "-m", model, "--json", stdin=name.encode())).endswith(name[1:])


@pytest.mark.parametrize("text", ["see notes.txt", "3.14", "e.g.", "or / and", "Stop."])
def test_other_texts_are_scored(text: str, model: Path) -> None:
    assert spelled(llm("score", text, "-m", model, "--json")).endswith(text[1:])


def test_files_come_before_the_prompt_and_piped_text_after_it(model: Path) -> None:
    flags = ["generate", "-m", model, "--json", "-n", "1"]
    Path("a.txt").write_bytes(b"\xef\xbb\xbfOne.\r\n")
    Path("b.md").write_text("```\nTwo.\n```\n")
    both = "a.txt\n```\nOne.\n```\n\nb.md\n````\n```\nTwo.\n```\n````"
    asked = [*flags, "-f", "a.txt", "--file", "b.md"]
    assert prompt_of(llm(*asked, "Why?", stdin=b"More.\n")) == f"{both}\n\nWhy?\n\nMore."
    assert prompt_of(llm(*asked)) == both
    assert prompt_of(llm(*asked, "Why?", "--raw")) == "One.\n\n```\nTwo.\n```\n\nWhy?"
    assert prompt_of(llm(*flags, "-f", "-", "Why?", stdin=b"One.\n")) == "stdin\n```\nOne.\n```\n\nWhy?"
    # A single file with nothing else is the prompt itself.
    assert prompt_of(llm(*flags, "-f", "a.txt")) == "One."
    llm("prompt", "save", "short", "Shorten: {input}")
    assert prompt_of(llm(*flags, "-T", "short", "-f", "a.txt")) == "Shorten: One."


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["-f", "none.txt"], "none.txt cannot be read: No such file or directory."),
        (["-f", "."], "cannot be read: Is a directory"),
        (["-f", "latin.txt"], "latin.txt is not UTF-8: the byte at offset 3 is 0xe9."),
        (["-f", "nul.bin"], "nul.bin is not a text that a model could read: it has NUL characters."),
        (["-f", "-", "-f", "-"], "Standard input can be read only once"),
        (["-f", "-", "-"], "Standard input can be read only once"),
        (["--fill-in", "a", "b", "-f", "nul.bin"], "--fill-in does not go with --file"),
        (["hi", "-s", "@none.txt"], "There is no file 'none.txt' for --system. A text that begins with @"),
        (["hi", "-s", "@"], "--system @ lacks the name of a file."),
        (["hi", "-f", ""], "The name of a file is empty."),
        (["hi", "-s", "@latin.txt"], "latin.txt is not UTF-8"),
        (["hi", "-s", "@nul.bin"], "nul.bin is not a text"),
    ],
)
def test_files_that_are_no_text_are_refused(flags: list[str], why: str) -> None:
    Path("latin.txt").write_bytes(b"caf\xe9")
    Path("nul.bin").write_bytes(b"ab\0cd, and more text")
    result = llm("generate", "-m", "no/model", *flags)
    assert (result.returncode, result.stdout) == (2, b"")
    assert why in " ".join(result.stderr.decode().split())


def test_a_system_prompt_is_read_from_a_file(model: Path, home: Path) -> None:
    Path("brief.txt").write_text("Be brief.\n")
    asked = ["generate", "hi", "-m", model, "-n", "1", "-t", "0", "--show-prompt"]

    def system(*flags: str) -> bytes:
        result = llm(*asked, *flags)
        assert result.returncode == 0, result
        return result.stderr

    assert system("-s", "@brief.txt") == system("-s", "Be brief.") != system("-s", "@@brief.txt")
    assert system("-s", "@@brief.txt") != system("-s", "brief.txt")
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text('system = "@brief.txt"\n')
    assert system() == system("-s", "Be brief.")
    (home / "config.toml").write_text('system = "@none.txt"\n')
    assert b"There is no file 'none.txt' for --system" in llm(*asked).stderr
    llm("prompt", "save", "p", "hi", "-s", "@brief.txt")
    assert json.loads(llm("prompt", "show", "p", "--json").stdout)["system"] == "Be brief."
