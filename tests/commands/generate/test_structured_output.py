"""Structured output as a script gets it: a reply without the requested form never reaches stdout."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from unittest import mock

import pytest
import typer

from llmcli.commands.generate.structured_output import ConstrainedReply
from llmcli.engine import Event, Finish, Prefill, Stats
from llmcli.errors import LlmcliError
from tests.support.models.puppet import chain, loop, write_puppet
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm

pytest.importorskip("llguidance", reason="the extra 'constrain' is not installed")

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"enum": [True, None]}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
)
SHORTEST = len('{"a":"","b":true}')


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "model", "llama")


@pytest.mark.parametrize("limit", [SHORTEST, SHORTEST + 1, SHORTEST + 9, 60])
def test_a_pipe_gets_valid_json_for_any_token_limit(model: Path, tmp_path: Path, limit: int) -> None:
    file = tmp_path / "schema.json"
    file.write_text(f"\ufeff{SCHEMA}\n", encoding="utf-8")
    flags = ["generate", "hi", "-m", model, "-n", limit, "-t", 1.5, "--top-k", 0, "--top-p", 1, "--seed", limit]
    result = llm(*flags, "--json-schema", file)
    assert (result.returncode, result.stderr) == (0, b"")
    assert set(json.loads(result.stdout)) == {"a", "b"}
    inline = json.loads(llm(*flags, "--json-schema", SCHEMA, "--json", "--top", 2).stdout)
    assert inline["text"].encode() + b"\n" == result.stdout and len(inline["tokens"]) <= limit


def test_nothing_is_printed_if_no_valid_reply_fits(model: Path) -> None:
    result = llm("generate", "hi", "-m", model, "-n", SHORTEST - 1, "--json-schema", SCHEMA)
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"fits into 16 tokens; allow more with -n (the shortest that was found needs 17)" in result.stderr


def test_free_whitespace_allows_spaces_in_json(tmp_path: Path) -> None:
    folder = write_puppet(tmp_path / "m", loop(b"[\n"))
    flags = ["generate", "hi", "-m", folder, "-t", 0, "-n", 30, "--json-schema", '{"type": "array", "items": false}']
    assert llm(*flags).stdout == b"[]\n"
    assert llm(*flags, "--free-whitespace").stdout == b"[\n]\n"
    flags[-2:] = ["--grammar", 'start: %json {"type": "array", "items": false}']
    assert llm(*flags).stdout == b"[]\n"
    assert llm(*flags, "--free-whitespace").stdout == b"[\n]\n"
    refused = llm("generate", "hi", "-m", folder, "--regex", "a", "--free-whitespace")
    assert refused.returncode == 2 and b"for the JSON of a --json-schema or a --grammar" in refused.stderr


def test_a_form_without_a_known_ending_is_noted_before_the_reply(tmp_path: Path) -> None:
    folder = write_puppet(tmp_path / "m", loop(b"ab"))
    flags = ["generate", "hi", "-m", folder, "-t", 0, "-n", 6, "--grammar", "start: /[ab]/ start"]
    result = llm(*flags)
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"No way to end a reply of this form was found" in result.stderr
    assert b"No way to end" not in llm(*flags, "-q").stderr


def test_an_incomplete_reply_is_an_error_and_is_not_printed(tmp_path: Path) -> None:
    folder = write_puppet(tmp_path / "m", loop(b"abc"))
    flags = ["generate", "hi", "-m", folder, "-t", 0, "--regex", "(abc)+", "-n", 9]
    assert llm(*flags).stdout == b"abcabcabc\n"
    for more in ([], ["--json"]):
        result = llm(*flags, "--stop", "cab", *more)
        assert (result.returncode, result.stdout) == (1, b"")
        assert b"ended before it had the form that is asked for, and is not shown" in result.stderr
    events = llm(*flags, "--stop", "cab", "--jsonl")
    assert events.returncode == 1 and json.loads(events.stdout.splitlines()[-1])["finish_reason"] == "stop_string"


def test_the_end_is_forced_at_the_token_limit_and_reported_as_forced(tmp_path: Path) -> None:
    folder = write_puppet(tmp_path / "m", loop(b"abc"))
    reply = json.loads(
        llm("generate", "hi", "-m", folder, "-t", 0, "--regex", "[a-c]+x", "-n", 6, "--json", "--top", 1).stdout
    )
    assert (reply["text"], reply["finish_reason"]) == ("abcabx", "stop")
    last = reply["tokens"][-1]
    assert (last["sampled_prob"], last["top"][0]["text"], last["top"][0]["removed_by"]) == (1, "c", "constraint")
    assert last["logprob"] < -10


def test_a_prefill_is_part_of_the_form(tmp_path: Path) -> None:
    folder = write_puppet(tmp_path / "m", chain(b"xyz"))
    flags = ["generate", "hi", "-m", folder, "-t", 0, "-n", 5]
    assert llm(*flags, "--regex", "x[a-z]z", "--prefill", "xy").stdout == b"xyz\n"
    # Complete as it is.
    assert llm(*flags, "--regex", "xyz", "--prefill", "xyz").stdout == b"xyz\n"
    refused = llm("generate", "hi", "-m", "/nowhere", "--regex", "x[a-z]z", "--prefill", "a")
    why = b"llm: No text of the form that is asked for begins with 'a': it has 'a', where 'x' can come.\n"
    assert (refused.returncode, refused.stdout, refused.stderr) == (2, b"", why)


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--regex", "(a"], "--regex cannot be used"),
        (["--grammar", "start: nothing"], "--grammar cannot be used"),
        (["--json-schema", '{"type": "objekt"}'], "--json-schema cannot be used"),
        (["--json-schema", "nowhere.json"], "There is no file 'nowhere.json'"),
        (["--grammar", "x" * 5000], "There is no file"),
        (["--regex", "a", "--grammar", "start: /a/"], "A reply has one form"),
        (["--regex", "a", "--choices", "a,b"], "do not go with --choices"),
        (["--regex", "a", "--record", "run.json"], "do not go with"),
    ],
)
def test_invalid_forms_are_refused_before_a_model_is_looked_up(flags: list[str], why: str) -> None:
    result = llm("generate", "hi", "-m", "/nowhere", *flags)
    assert (result.returncode, result.stdout) == (2, b"")
    assert why in result.stderr.decode()


def test_a_missing_library_is_reported_with_the_command_that_installs_it() -> None:
    with mock.patch.dict(sys.modules, {"llguidance": None}):
        result = llm("generate", "hi", "-m", "/nowhere", "--regex", "a")
    assert result.returncode == 2
    assert f"{shlex.quote(sys.executable)} -m pip install 'llmcli[constrain]'" in result.stderr.decode()


def test_constrained_replies_stream_to_a_terminal_and_reach_pipes_when_complete() -> None:
    prefill = Prefill(1, 0, 0.1)
    stats = Stats(1, 0, 0, None, None, None, 0, "")
    whole, cut = (mock.Mock(complete=complete, can_end=None, awaits_answer=False) for complete in (True, False))
    for source, hold in ((whole, True), (whole, False), (cut, True), (cut, False)):
        shown: list[Event] = []
        reply = ConstrainedReply(source, shown.append, hold=hold)
        reply.receive(prefill)
        assert shown == ([] if hold else [prefill])
        if source is whole:
            reply.end(Finish("stop", stats))
            assert shown == [prefill]
        else:
            with pytest.raises(LlmcliError):
                reply.end(Finish("length", stats))
            with pytest.raises(typer.Exit) as left:
                reply.end(Finish("interrupted", stats))
            assert left.value.exit_code == 130 and shown == ([] if hold else [prefill])
