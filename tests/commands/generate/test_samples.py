"""`llm generate --samples N`: each reply is the one that its seed gives alone."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.support.forked import on_terminal
from tests.support.models.puppet import ASSISTANT, END, ids_of, loop, write_puppet
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm, start


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("m"), "llama")


def test_a_pipe_gets_a_line_before_each_reply(model: Path) -> None:
    flags = ["generate", "hi", "-m", model, "-n", 5]
    result = llm(*flags, "--samples", 2, "--seed", 5)
    alone = [llm(*flags, "--seed", seed).stdout for seed in (5, 6)]
    assert result.stdout == b"--- 1 of 2, seed 5 ---\n" + alone[0] + b"--- 2 of 2, seed 6 ---\n" + alone[1]
    assert alone[0] != alone[1] and (result.stderr, result.returncode) == (b"", 0)


def test_json_is_an_array_and_events_have_the_number_of_their_reply(model: Path) -> None:
    flags = ["generate", "hi", "-m", model, "-n", 3, "--samples", 2, "--seed", 5, "--top", 1]
    replies = json.loads(llm(*flags, "--json").stdout)
    assert [reply["seed"] for reply in replies] == [5, 6]
    # The prompt is read once.
    assert [reply["stats"]["cached_tokens"] for reply in replies] == [0, replies[0]["prompt_tokens"]]
    events = [json.loads(line) for line in llm(*flags, "--jsonl", "--attention").stdout.splitlines()]
    kinds = ["prefill", *["step"] * 3, *["attention"] * 3, "finish"]
    assert [(event["event"], event["sample"]) for event in events] == [(kind, n) for n in (0, 1) for kind in kinds]
    steps = [event["id"] for event in events if event["event"] == "step"]
    assert steps == [token["id"] for reply in replies for token in reply["tokens"]]
    assert b'"sample":' not in llm(*flags, "--jsonl", "--samples", 1).stdout


def test_temperature_0_says_that_all_are_the_same(model: Path) -> None:
    result = llm("generate", "hi", "-m", model, "-n", 2, "--samples", 2, "-t", 0)
    assert b"All replies are the same" in result.stderr and result.stdout.count(b"---\n") == 2


def test_seeds_beyond_the_last_are_refused_before_the_first_reply(model: Path) -> None:
    last = (1 << 63) - 1
    flags = ["generate", "hi", "-m", model, "-n", 1, "--samples", 2]
    result = llm(*flags, "--seed", last)
    assert (result.returncode, result.stdout) == (2, b"") and b"they end at 2^63 - 1" in result.stderr
    assert llm(*flags, "--seed", last - 1).returncode == 0


def test_a_reply_without_the_form_does_not_stop_the_others(tmp_path: Path) -> None:
    pytest.importorskip("llguidance")
    a, b = ids_of(b"AB")
    model = write_puppet(tmp_path / "m", {ASSISTANT: {a: 0.5, b: 0.5}, a: {END: 1.0}, b: {END: 1.0}})
    # A stop string inside the form: B is no whole reply.
    flags = ["generate", "hi", "-m", model, "--regex", "A|B", "--stop", "B", "--samples", 8, "--seed", 1]
    result = llm(*flags, "--json")
    assert result.returncode == 1
    replies = json.loads(result.stdout)
    assert {reply["text"] for reply in replies} == {"A"}
    assert 0 < result.stderr.count(b" of 8: The reply ended before it had the form") == 8 - len(replies)
    assert llm(*flags).stdout.count(b"---\nA\n") == len(replies)


@pytest.mark.parametrize(
    "flags", [["--choices", "a,b"], ["--html", "x.html"], ["--svg", "x"], ["--record", "x"], ["--no-newline"]]
)
def test_what_writes_one_reply_is_refused(flags: list[str]) -> None:
    result = llm("generate", "hi", "-m", "no/model", "--samples", 2, *flags)
    assert result.returncode == 2 and flags[0].encode() in result.stderr
    assert llm("generate", "hi", "--samples", 0).returncode == 2


def test_ctrl_c_ends_the_run_and_json_is_complete(tmp_path: Path) -> None:
    model = write_puppet(tmp_path / "m", loop(b"abc\n"), context=100_000)
    process = start("generate", "hi", "-m", model, "--samples", 3)
    assert process.stdout.readline().startswith(b"--- 1 of 3, seed ")
    assert process.stdout.readline() == b"abc\n"
    process.send_signal(signal.SIGINT)
    assert b"---" not in process.communicate(timeout=60)[0]
    assert process.returncode == 130


@pytest.mark.slow
def test_a_terminal_gets_a_rule(model: Path) -> None:
    arguments = ["generate", "hi", "-m", model, "-n", 2, "--samples", 2, "--seed", 5, "--no-color"]
    # Not the width that an earlier test of this process may have set.
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    child = on_terminal(arguments, {**environment, "TERM": "xterm"}, size=(24, 40), encoding="utf-8")
    rules = [line for line in child.read().splitlines() if "─" in line]
    assert [rule.strip("─ ") for rule in rules] == ["1 of 2 · seed 5", "2 of 2 · seed 6"]
    assert {len(rule) for rule in rules} == {40}
    child.wait()
