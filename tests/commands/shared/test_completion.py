"""Tab completion in the shell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmcli.hub.aliases import set_alias

# In a new process: Typer looks for completion when the program starts, and nothing may have imported torch.
PROGRAM = """
import sys
sys.argv = ["llm"]
from llmcli import cli
try:
    cli.app(prog_name="llm")
finally:
    assert "torch" not in sys.modules
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CONFIG", "DATA", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    files = (
        "config/llmcli/templates/greet.toml",
        "config/llmcli/templates/.hidden.toml",
        "data/llmcli/edits/rome-paris.safetensors",
        "data/llmcli/conversations/20260101-000000-abcd.jsonl",
        "data/llmcli/runs/20260202-000000-efgh.jsonl",
        "data/llmcli/models/tiny.gguf",
        "start.txt",
    )
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    set_alias("stand-in", "owner/name")
    return tmp_path


def offered(*words: str) -> list[str]:
    variables = {
        "_LLM_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["llm", *words]),
        "COMP_CWORD": str(len(words)),
    }
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert not result.stderr, result.stderr
    return result.stdout.split()


def test_tab_completes_names_after_flags_and_arguments(home: Path) -> None:
    assert offered("generate", "--model", "st") == ["starter", "stand-in"]
    assert offered("chat", "-m", "ti") == offered("show", "ti") == offered("rm", "ti") == ["tiny"]
    assert offered("generate", "-T", "") == offered("template", "show", "g") == ["greet"]
    assert offered("chat", "-e", "r") == ["rome-paris"]
    assert offered("chats", "show", "2") == ["20260101-000000-abcd"]
    assert offered("log", "show", "") == offered("log", "rm", "2") == ["20260202-000000-efgh"]
    for command in ("chat", "generate"):
        assert sorted(offered(command, "--resume", "2")) == ["20260101-000000-abcd", "20260202-000000-efgh"]
    assert offered("inspect", "lens", "--dtype", "f") == ["float32", "float16"]
    assert offered("alias", "rm", "") == ["stand-in"]


def test_damaged_files_give_no_completions_and_no_messages(home: Path) -> None:
    (home / "config" / "llmcli" / "aliases.json").write_text("{")
    assert offered("alias", "rm", "") == []
    assert offered("generate", "--model", "st") == ["starter"]
