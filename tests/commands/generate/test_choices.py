from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.models.puppet import ASSISTANT, END, ids_of, write_puppet
from tests.support.models.tiny import write_text_files
from tests.support.terminal.cli import llm


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that writes y (0.6), n (0.3) or m (0.1), then ends, but after y writes o with probability 0.4."""
    y, n, m, o = (ids_of(bytes([char]))[0] for char in b"ynmo")
    says = {ASSISTANT: {y: 0.6, n: 0.3, m: 0.1}, y: {END: 0.6, o: 0.4}, n: {END: 1.0}, m: {END: 1.0}, o: {END: 1.0}}
    return write_puppet(tmp_path_factory.mktemp("judge"), says)


def shares(model: Path, *arguments: object) -> dict[str, float]:
    result = json.loads(llm("generate", "hi", "-m", model, "--json", "--dtype", "float32", *arguments).stdout)
    assert result["schema"] == "llmcli.choices/1"
    return {choice["text"]: round(choice["prob"], 3) for choice in result["choices"]}


def test_the_most_probable_complete_answer_is_chosen(judge: Path) -> None:
    result = llm("generate", "hi", "-m", judge, "--dtype", "float32", "--choices", "y, n,m")
    assert (result.stdout, result.stderr, result.returncode) == (b"y\n", b"", 0)
    # y alone has 0.6 * 0.6, and yo 0.6 * 0.4.
    assert shares(judge, "--choices", "y,n,m") == {"y": 0.474, "n": 0.395, "m": 0.132}
    assert shares(judge, "--choices", "y,n,m,yo") == {"y": 0.36, "n": 0.3, "m": 0.1, "yo": 0.24}
    assert shares(judge, "--choices", "y,yo") == {"y": 0.6, "yo": 0.4}


def test_answers_can_be_given_in_three_ways(judge: Path) -> None:
    expected = {"n": 0.75, "m": 0.25}
    for given in (["n,m"], ["n", "--choices", "m"], ['["n", "m"]'], ['["n"]', "--choices", "m"]):
        assert shares(judge, "--choices", *given) == expected
    assert shares(judge, "--choices", '["n", "n,", " n"]') == {"n": 1.0, "n,": 0.0, " n": 0.0}


def test_the_stop_token_counts_for_replies_but_not_for_raw_text(judge: Path, tmp_path: Path) -> None:
    flags = ["-m", judge, "--dtype", "float32", "--json", "--choices", "y,n"]
    end_logprobs = json.loads(llm("generate", "hi", *flags).stdout)["choices"]
    assert sorted(round(choice["end_logprob"], 3) for choice in end_logprobs) == [-0.511, 0]
    follower = write_puppet(tmp_path / "m", {ids_of(b"i")[0]: {ids_of(b"y")[0]: 0.8, ids_of(b"n")[0]: 0.2}})
    assert shares(follower, "--raw", "--choices", "y,n") == {"y": 0.8, "n": 0.2}
    assert shares(follower, "--choices", "y,n", "--prefill", "i") == {"y": 0.8, "n": 0.2}
    write_text_files(follower, template=None)
    result = llm("generate", "hi", "-m", follower, "--choices", "y,n")
    assert (result.stdout, b"no chat template" in result.stderr) == (b"y\n", True)


def test_the_table_of_answers_goes_to_stderr(judge: Path) -> None:
    result = llm("generate", "hi", "-m", judge, "--dtype", "float32", "--choices", "n,m,o", "--probs")
    table = result.stderr.decode()
    assert result.stdout == b"n\n"
    assert "its end" in table and "75.0%" in table and "unconstrained, the model replies exactly one" in table
    assert "40.0% of the time" in table
    assert "\nm" in table and "\no" in table
    short = llm("generate", "hi", "-m", judge, "--dtype", "float32", "--choices", "n,m,o", "--top", 1).stderr.decode()
    assert "\nm" not in short and "40.0%" in short


@pytest.mark.parametrize(("least", "code"), [("0.74", 0), ("0.76", 1)])
def test_min_prob_sets_the_exit_code(judge: Path, least: str, code: int) -> None:
    result = llm("generate", "hi", "-m", judge, "--dtype", "float32", "--choices", "n,m", "--min-prob", least)
    assert (result.stdout, result.returncode) == (b"n\n", code)
    assert (b"Unsure: 'n' has 75.0%" in result.stderr) == bool(code)


def test_readable_compares_answers_with_the_readable_model(judge: Path) -> None:
    flags = ["generate", "hi", "-m", judge, "--dtype", "float32", "--json", "--choices", "y,n,m,yo"]
    fast, readable = (json.loads(llm(*flags, *more).stdout) for more in ([], ["--readable"]))
    assert (fast["path"][:10], readable["path"]) == ("cpu kernel", "readable model, cpu, float32 (as asked)")
    assert (
        [choice["text"] for choice in readable["choices"]]
        == ["y", "n", "yo", "m"]
        == [choice["text"] for choice in fast["choices"]]
    )
    for key in ("logprob", "end_logprob"):
        expected = [choice[key] for choice in fast["choices"]]
        assert [choice[key] for choice in readable["choices"]] == pytest.approx(expected, abs=1e-4)


def test_readable_in_the_settings_file_is_ignored_for_replies(
    judge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "llmcli" / "config.toml"
    path.parent.mkdir()
    path.write_text("readable = true\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    chosen = json.loads(llm("generate", "hi", "-m", judge, "--json", "--choices", "y,n").stdout)
    assert chosen["path"].endswith("(as asked)")
    reply = llm("generate", "hi", "-m", judge, "--temperature", 0, "--stats")
    assert (reply.returncode, b"(as asked)" in reply.stderr) == (0, False), reply.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--min-prob", "0.5"], "--min-prob is for --choices"),
        (["--readable"], "--readable is for --choices, and none are given."),
        (["--choices", "a,b", "--min-prob", "2"], "from 0 to 1"),
        (["--choices", "a"], "at least two"),
        (["--choices", "a,,b"], "empty"),
        (["--choices", "a,b", "--choices", "a"], "'a' twice"),
        (["--choices", '["a", 1]'], "JSON array"),
        (["--choices", '["a"'], "JSON array"),
        (["--choices", "a,b", "--jsonl"], "one answer"),
        (["--choices", "a,ab", "--raw"], "begins with"),
    ],
)
def test_invalid_choices_are_usage_errors(judge: Path, arguments: list[str], sentence: str) -> None:
    result = llm("generate", "hi", "-m", judge, *arguments)
    assert (result.returncode, result.stdout) == (2, b"")
    assert sentence in result.stderr.decode()
