"""`llm edit`: a fact is changed, kept, used, listed and undone from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.manual import absent, undocumented
from tests.support.models.edited_model import CORPUS, FACT, checkpoint
from tests.support.terminal.cli import Result, llm


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def edit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr("llmcli.editing.covariance.statistics_folder", lambda: tmp_path / "statistics")
    (tmp_path / "corpus.txt").write_text(CORPUS)

    def run(*arguments: object) -> Result:
        return llm(
            *("edit", FACT.prompt, "--subject", FACT.subject, "--to", FACT.target, "-m", folder, "-n", 2),
            *("--neighbor", "Water is", "--corpus", tmp_path / "corpus.txt", "--layer", 1, *arguments),
        )

    return run


def test_an_edit_is_saved_used_and_undone(edit, folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    before = llm("score", 'See the tower "B', "-m", folder, "--json").stdout
    made = edit("--force", "--json", "--layer", "auto")
    assert made.returncode == 0, made.stderr
    report = json.loads(made.stdout)
    prompt = report["proof"]["prompt"]
    assert report["schema"] == "llmcli.edit/1" and prompt["after"] > 2 * prompt["before"]
    assert len(report["tried"]) == 2 and report["target"] == "B"
    assert undocumented("llmcli.edit/1", report) == absent("llmcli.edit/1", report) == set()
    (listed,) = json.loads(llm("edit", "list", "--json").stdout)
    assert listed["name"] == "tower-b" and listed["layers"] == [report["layer"]]
    assert b"See the tower" in llm("edit", "show", "tower-b").stdout
    text = ('See the tower "B', "-m", folder, "--json", "-e", "tower-b")
    scored = llm("score", *text)
    assert b'Edited: See the tower " -> B.' in scored.stderr
    assert json.loads(scored.stdout)["perplexity"] < json.loads(before)["perplexity"]
    greedy = ("--raw", "-t", 0, "-n", 5, "-m", folder)
    said = [llm("generate", FACT.prompt, *greedy, *more).stdout for more in ((), text[-2:])]
    assert said[0] != said[1]
    seen = [llm("inspect", "lens", FACT.prompt, "-m", folder, "--json", *more).stdout for more in ((), text[-2:])]
    assert seen[0] != seen[1]
    assert llm("edit", "rm").returncode == 0
    assert llm("score", *text).returncode == 2
    assert llm("score", 'See the tower "B', "-m", folder, "--json").stdout == before


def test_an_edit_that_fails_its_tests_is_not_saved(edit, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    # A random model learns the new fact, but the edit also changes other predictions.
    result = edit("--out", tmp_path / "an.safetensors")
    assert result.returncode == 1 and b"--force" in result.stderr
    assert b"It " in result.stdout and not (tmp_path / "an.safetensors").exists()
    assert edit("--out", tmp_path / "an.safetensors", "--force").returncode == 0
    assert llm("edit", "show", tmp_path / "an.safetensors").returncode == 0


def test_an_edit_of_another_model_is_refused(edit, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert edit("--force").returncode == 0
    other = checkpoint(tmp_path / "other", seed=4)
    result = llm("generate", "Hi", "-n", 1, "-m", other, "-e", "tower-b")
    assert result.returncode == 4 and b"was made for model" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--layer", "middle"), 2, b"neither the number"),
        (("--layer", 7), 2, b"no block 7"),
        (("--subject", "castle"), 2, b"does not contain"),
        (("--corpus", "/nowhere"), 2, b"cannot be read"),
        (("--out", "/nowhere/an.safetensors"), 2, b"folder that exists"),
        (("-e", "none"), 2, b"no edit 'none'"),
    ],
)
def test_invalid_edits_are_refused_and_not_saved(edit, arguments, code: int, message: bytes) -> None:  # type: ignore[no-untyped-def]
    result = edit(*arguments)
    assert result.returncode == code and message in result.stderr and not result.stdout
    assert json.loads(llm("edit", "list", "--json").stdout) == []


def test_undo_deletes_nothing_but_edits(edit, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "letter.txt").write_text("Dear all")
    assert llm("edit", "undo", tmp_path / "letter.txt").returncode == 4 and (tmp_path / "letter.txt").exists()
    assert llm("edit", "undo").returncode == 2


def test_edits_are_merged_into_a_new_checkpoint(edit, folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert edit("--force").returncode == 0
    result = llm("edit", "merge", "tower-b", "-m", folder, "-o", tmp_path / "merged")
    assert result.returncode == 0 and b"-m" in result.stderr
    said = [
        json.loads(llm("score", 'See the tower "B', *model, "--json", "--dtype", "float32").stdout)["perplexity"]
        for model in (("-m", tmp_path / "merged"), ("-m", folder, "-e", "tower-b"))
    ]
    assert said[0] == pytest.approx(said[1], rel=1e-4)
    assert llm("edit", "merge", "tower-b", "-m", folder, "-o", tmp_path / "merged").returncode == 1
    # The edit belongs to the original weights, not to the merged ones.
    assert llm("generate", "Hi", "-n", 1, "-m", tmp_path / "merged", "-e", "tower-b").returncode == 4


def test_help_shows_the_prompt_and_the_commands() -> None:
    shown = llm("edit", "--help").stdout
    assert b"PROMPT --subject" in shown and all(name in shown for name in (b"list", b"show", b"merge", b" rm "))
    assert b"--layer" in llm("edit", "any words", "--help").stdout


def test_a_misspelled_command_is_no_prompt() -> None:
    result = llm("edit", "lst")
    assert (result.returncode, result.stdout) == (2, b"") and b"did you mean llm edit list?" in result.stderr
    assert b"--subject" in llm("edit", "lst is in").stderr
