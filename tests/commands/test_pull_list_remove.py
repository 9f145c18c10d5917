from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from llmcli.commands import list_models, pull, remove
from llmcli.errors import ModelNotFoundError, UsageError
from llmcli.hub import starter, store
from llmcli.hub.aliases import set_alias
from tests.support.hub.fake_index import CONTENT, use_fake_index

app = typer.Typer()
app.command("pull")(pull.pull)
app.command("list")(list_models.list_models)
app.command("rm")(remove.remove)


@pytest.fixture(autouse=True)
def own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    use_fake_index(monkeypatch, tmp_path / "index")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def run(*arguments: str, typed: str = "") -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments, input=typed)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_pull_prints_the_path_and_nothing_else() -> None:
    assert run("pull") == (0, f"{store.store_folder() / starter.STARTER.file_name}\n", "")


def test_list_shows_what_pull_fetched() -> None:
    code, out, err = run("list")
    assert (code, out) == (0, "") and "llm pull" in err
    assert json.loads(run("list", "--json")[1]) == []
    run("pull", "starter")
    header, line = run("list")[1].splitlines()
    assert header.split() == ["NAME", "SIZE", "KIND", "WHERE"]
    assert line.split()[:5] == ["SmolLM2-135M-Instruct.Q4_1", "10", "KiB", "GGUF", "store:"]
    assert header.index("KIND") == line.index("GGUF")
    (entry,) = json.loads(run("list", "--json")[1])
    assert entry["aliases"] == []
    set_alias("fast", "smollm2")
    set_alias("far", "owner/name")
    _, line, far, fast = run("list")[1].splitlines()
    assert (far.split(), fast.split()) == (["far", "alias", "owner/name"], ["fast", "alias", "smollm2"])
    (entry,) = json.loads(run("list", "--json")[1])
    assert entry["aliases"] == ["fast"]
    assert entry["bytes"] == len(CONTENT) and Path(entry["path"]).is_file() and entry["modified"].endswith("+00:00")


@pytest.mark.parametrize(("terminal", "typed", "gone"), [(True, "y\n", True), (True, "\n", False), (False, "", True)])
def test_rm_asks_at_a_terminal(monkeypatch: pytest.MonkeyPatch, terminal: bool, typed: str, gone: bool) -> None:
    run("pull")
    monkeypatch.setattr(remove, "is_terminal", lambda stream: terminal)
    code, out, err = run("rm", "starter", typed=typed)
    assert (starter.starter_path() is None) == gone
    assert code == (0 if gone else 1)
    assert out == "" and ("Remove " in err) == terminal and "SmolLM2-135M-Instruct" in err


def test_rm_with_yes_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    run("pull")
    monkeypatch.setattr(remove, "is_terminal", lambda stream: True)
    assert run("rm", "-y", "smollm2")[0] == 0
    assert starter.starter_path() is None


def test_rm_refuses_files_outside_store_and_cache(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        run("rm", str(tmp_path))
    with pytest.raises(ModelNotFoundError):
        run("rm", "no-such-model")
    assert tmp_path.is_dir()
