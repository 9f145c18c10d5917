from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from llmcli.errors import ModelNotFoundError, UsageError
from llmcli.hub import resolve
from llmcli.hub.aliases import aliases_path
from tests.support.models.puppet import chain, write_puppet
from tests.support.terminal.cli import llm


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CONFIG", "DATA", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_alias_stands_for_a_model_wherever_one_is_named(home: Path) -> None:
    write_puppet(home / "model", chain(b"ok"))
    result = llm("alias", "set", "fast", "model")
    assert (result.returncode, result.stdout) == (0, b"")
    assert str(home / "model") in result.stderr.decode()
    assert llm("generate", "hi", "-m", "fast", "-t", 0).stdout == b"ok\n"
    assert llm("show", "fast", "--json").returncode == 0
    assert llm("generate", "hi", "-t", 0, env={"LLMCLI_MODEL": "fast"}).stdout == b"ok\n"
    assert json.loads(llm("alias", "list", "--json").stdout) == {"fast": str(home / "model")}
    assert llm("alias", "list").stdout.decode() == f"fast  {home / 'model'}\n"
    assert llm("alias", "rm", "fast").returncode == 0
    gone = llm("generate", "hi", "-m", "fast")
    assert (gone.returncode, b"fast" in gone.stderr) == (3, True)
    assert (home / "model").is_dir()


def test_an_alias_can_name_a_model_that_is_not_downloaded_yet() -> None:
    made = llm("alias", "set", "far", "owner/name:Q4_K_M")
    assert made.returncode == 0
    assert b"owner/name:Q4_K_M is not on this machine; `llm pull" in made.stderr
    assert llm("alias", "set", "first", "starter").returncode == 0
    result = llm("generate", "hi", "-m", "far")
    assert (result.returncode, b"owner/name" in result.stderr) == (3, True)
    assert b"owner/name" in llm("pull", "far").stderr


@pytest.mark.parametrize("model", ["nothing", "./nothing", "/no/where", "a/b.gguf", "staarter"])
def test_an_alias_for_an_unknown_model_is_refused(model: str) -> None:
    result = llm("alias", "set", "fast", model)
    assert result.returncode == 3
    assert model.encode() in result.stderr
    assert json.loads(llm("alias", "list", "--json").stdout) == {}


def test_a_path_comes_before_an_alias_and_an_alias_is_suggested(home: Path) -> None:
    write_puppet(home / "here", chain(b"ok"))
    (home / "elsewhere").mkdir()
    llm("alias", "set", "here", home / "elsewhere")
    assert resolve.resolve("here") == Path("here")
    assert b"did you mean here" in llm("show", "heer").stderr


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["set", "a/b", "x"], 2, "cannot be an alias"),
        (["set", "a.gguf", "x"], 2, "cannot be an alias"),
        (["set", "starter", "x"], 2, "the starter model"),
        (["set", "a", " "], 2, "empty"),
        (["set", "b", "known"], 2, "is an alias itself"),
        (["rm", "nope"], 3, "no alias 'nope'"),
    ],
)
def test_invalid_options_are_refused(arguments: list[str], code: int, why: str) -> None:
    llm("alias", "set", "known", "owner/name")
    result = llm("alias", *arguments)
    assert result.returncode == code
    assert why in result.stderr.decode()
    assert json.loads(llm("alias", "list", "--json").stdout) == {"known": "owner/name"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_that_a_windows_editor_saved_is_read(encoding: str) -> None:
    aliases_path().parent.mkdir(parents=True, exist_ok=True)
    aliases_path().write_bytes('{"k\u00e9": "owner/name"}\r\n'.encode(encoding))
    assert json.loads(llm("alias", "list", "--json").stdout) == {"k\u00e9": "owner/name"}


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}', "[" * 90_000, "\xff"])
def test_a_damaged_file_is_named_and_never_lost(content: str, home: Path) -> None:
    path = aliases_path()
    path.parent.mkdir(parents=True)
    path.write_text(content, encoding="latin-1")
    with pytest.raises(UsageError, match=r"aliases\.json"):
        resolve.resolve("a")
    # Names that cannot be aliases keep their meaning.
    with pytest.raises(ModelNotFoundError, match="owner/name"):
        resolve.resolve("owner/name", fetch=False)
    listed = llm("alias", "list")
    assert (listed.returncode, listed.stdout) == (0, b"")
    assert str(path) in listed.stderr.decode() and b"There are no aliases" not in listed.stderr
    # `alias rm` has nothing to delete, and keeps the file, which its owner can still repair.
    assert llm("alias", "rm", "a").returncode == 2
    assert path.read_text(encoding="latin-1") == content
    for number, name in enumerate(("a", "b"), 1):
        done = llm("alias", "set", name, "owner/name")
        aside = path.with_name(f"aliases.damaged-{number}")
        assert (done.returncode, str(aside) in done.stderr.decode()) == (0, True)
        assert aside.read_text(encoding="latin-1") == content
        assert json.loads(path.read_text()) == {name: "owner/name"}
        path.write_text(content, encoding="latin-1")


def test_an_unreadable_alias_file_is_not_overwritten(home: Path) -> None:
    aliases_path().parent.mkdir(parents=True)
    os.mkfifo(aliases_path())
    for arguments in (["set", "a", "b"], ["rm", "a"], ["list"]):
        done = llm("alias", *arguments)
        assert (done.returncode, b"is not a file" in done.stderr) == (0 if arguments == ["list"] else 2, True)
    assert aliases_path().is_fifo()
