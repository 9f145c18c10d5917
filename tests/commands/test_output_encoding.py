"""Characters that cannot be written to the output: every view replaces them, and saved names still find their files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pexpect
import pytest

from llmcli.views.terminal.terminal import MOST_COLUMNS
from tests.support.faults.run import environment
from tests.support.forked import on_terminal
from tests.support.models.puppet import chain, write_puppet
from tests.support.terminal.cli import llm

# Every view in every encoding.
pytestmark = pytest.mark.slow

LATIN_NAME = os.fsdecode(b"mod\xe8le")
VIEWS = [
    ["score", "hello é 世"],
    ["inspect", "tokens", "hello é 世"],
    ["inspect", "lens", "hi é"],
    ["inspect", "attention", "hi é"],
    ["inspect", "attention", "hi é", "--layer", "0", "--head", "0"],
    ["inspect", "heads"],
    ["inspect", "neurons", "hi é"],
    ["inspect", "cost"],
    ["inspect", "token", "next", "hi é"],
    ["inspect", "without", "é", "hi é"],
    ["inspect", "embeddings", "a"],
    ["inspect", "experts", "hi é"],
    ["show"],
    ["doctor"],
    ["config"],
    ["list"],
    ["chats", "list"],
    ["alias", "list"],
    ["generate", "hi é", "--probs", "--top", "2", "--show-prompt", "--stats", "-n", "3"],
    ["--help"],
    ["generate", "--help"],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_puppet(tmp_path_factory.mktemp("models") / "speaker", chain("a🙂 ".encode()))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(("LLMCLI_", "XDG_")) and name != "XDG_CACHE_HOME"]:
        monkeypatch.delenv(name)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("LLMCLI_MODEL", str(folder))
    return tmp_path / "home"


@pytest.mark.parametrize("view", VIEWS, ids=" ".join)
def test_every_view_in_every_encoding_and_width(view: list[str]) -> None:
    usual = llm(*view)
    for encoding, columns in (("ascii", "0"), ("cp1252", "1"), ("latin-1", "9" * 30), ("utf-8", "7")):
        result = llm(*view, encoding=encoding, env={"COLUMNS": columns, "LINES": columns})
        assert result.returncode == usual.returncode, result.stderr
        assert b"is a bug" not in result.stderr
        assert bool(result.stdout.strip()) == bool(usual.stdout.strip())
        # The longest view has fewer than 200 lines.
        assert len(result.stdout) < 200 * MOST_COLUMNS
        if encoding != "utf-8" and view[0] not in ("generate", "list"):
            assert "\x1b" not in result.stdout.decode(encoding)


@pytest.fixture
def latin(tmp_path: Path, folder: Path) -> Path:
    """A model whose folder has a name that is not UTF-8."""
    try:
        return Path(shutil.copytree(folder, tmp_path / LATIN_NAME))
    except OSError:
        pytest.skip("this file system has only names in UTF-8")


def test_a_name_that_is_not_utf_8_is_shown_and_can_be_used(latin: Path, home: Path, tmp_path: Path) -> None:
    shown = b"mod\\xe8le"
    set_ = llm("alias", "set", "old", latin)
    assert set_.returncode == 0 and shown in set_.stderr
    assert shown in llm("alias", "list").stdout
    assert json.loads(llm("alias", "list", "--json").stdout) == {"old": str(latin)}
    assert llm("generate", "hi", "-m", "old", "-t", 0).stdout == "a🙂 \n".encode()
    for view in (["show"], ["doctor"]):
        result = llm(*view, latin)
        assert shown in result.stdout and b"is a bug" not in result.stderr, result
    listed = json.loads(llm("show", latin, "--json").stdout)
    assert (listed["name"], listed["path"]) == (LATIN_NAME, str(latin))
    missing = llm("show", f"{latin}/no")
    assert missing.returncode == 3 and b"mod\\udce8le" in missing.stderr
    run = tmp_path / "run.json"
    pictures = ["--html", tmp_path / "page.html", "--svg", tmp_path / "page.svg"]
    recorded = llm("generate", "hi", "-m", latin, "-n", 2, "--seed", 1, "--record", run, *pictures)
    assert recorded.returncode == 0, recorded.stderr
    assert shown in (tmp_path / "page.svg").read_bytes()
    assert json.loads(run.read_bytes())["path"] == str(latin)
    assert llm("replay", run).returncode == 0
    json_reply = llm("generate", "hi", "-m", latin, "--json")
    assert json.loads(json_reply.stdout)["model"] == LATIN_NAME


def test_a_chat_works_with_a_model_whose_name_is_not_utf_8(latin: Path) -> None:
    said = llm("chat", "-m", latin, "-t", 0, "-q", stdin=b"hi")
    assert (said.stdout, said.returncode) == ("a🙂 \n".encode(), 0), said.stderr
    again = llm("chat", "-c", "-t", 0, stdin=b"again", env={"LLMCLI_MODEL": ""})
    assert (again.stdout, again.returncode) == ("a🙂 \n".encode(), 0), again.stderr
    by_name = llm("chat", "-c", "-m", latin, "-t", 0, "-q", stdin=b"again")
    assert by_name.returncode == 0, by_name.stderr
    rows = json.loads(llm("chats", "list", "--json").stdout)
    assert [(row["messages"], row["model"]) for row in rows] == [(6, LATIN_NAME)]
    assert b"mod\\xe8le" in llm("chats", "list").stdout
    for form in ("json", "markdown"):
        assert llm("chats", "export", rows[0]["id"], "-f", form).returncode == 0


def test_a_reply_continues_after_a_character_outside_the_terminal_encoding(folder: Path, tmp_path: Path) -> None:
    flags = ["generate", "hi", "-m", str(folder), "-t", "0", "-q"]
    for more, shown in ((["--prefill", "é…a"], b"\xe9...a? "), (["--probs"], b"a"), (["--json"], b'"text": "a? "')):
        # Python reads the variable when it starts.
        env = {**environment(tmp_path), "TERM": "xterm", "PYTHONIOENCODING": "latin-1"}
        child = on_terminal([*flags, *more], env, real=True, timeout=60)
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0 and shown in child.before, child.before
