"""What `generate` shows about the tokens of a reply: probabilities, filters and attention."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path

import pytest

from tests.support.models.puppet import ASSISTANT, chain, ids_of, write_puppet
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm


@pytest.fixture(scope="module")
def chooser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that writes a, b, c or d, with probabilities that each filter cuts elsewhere, and ends."""
    a, b, c, d = (ids_of(bytes([char]))[0] for char in b"abcd")
    return write_puppet(
        tmp_path_factory.mktemp("m"), {ASSISTANT: {a: 0.5, b: 0.3, c: 0.15, d: 0.05}, a: chain(b"x")[ASSISTANT]}
    )


def test_the_trace_names_the_filter_that_dropped_each_candidate(chooser: Path) -> None:
    flags = ["-t", 1, "--top-k", 3, "--top-p", 0.9, "--min-p", 0.5, "--seed", 1, "--top", 4]
    reply = json.loads(llm("generate", "hi", "-m", chooser, "--json", *flags).stdout)
    first = reply["tokens"][0]
    assert [(one["text"], one["removed_by"]) for one in first["top"]] == [
        ("a", None),
        ("b", None),
        ("c", "min_p"),
        ("d", "top_k"),
    ]
    assert [one["sampled_prob"] for one in first["top"]] == pytest.approx([0.625, 0.375, 0, 0], abs=0.01)
    assert [math.exp(one["logprob"]) for one in first["top"]] == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.01)
    assert first["rank"] == (1 if first["text"] == "a" else 2)
    assert base64.b64decode(first["bytes"]).decode() == first["text"]
    table = llm("generate", "hi", "-m", chooser, *flags).stderr.decode()
    assert "(below min-p)" in table and "(not in top-k)" in table and "perplexity" in table
    greedy = llm("generate", "hi", "-m", chooser, "-t", 0, "--top", 2).stderr.decode()
    assert "(" not in greedy


@pytest.fixture(scope="module")
def babbler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("m"), "llama")


def test_attention_of_a_reply_is_shown(babbler: Path) -> None:
    flags = ["-m", babbler, "-t", 0, "-n", 3]
    result = llm("generate", "hi", *flags, "--attention")
    assert b"sink" in result.stderr and b"read" in result.stderr
    assert result.stdout == llm("generate", "hi", *flags).stdout
    by_message = llm("generate", "hi", *flags, "--attention", "--attention-by", "message", "--json")
    row = json.loads(by_message.stdout)["tokens"][0]["attention"]
    assert row.keys() == {"position", "sink", "self", "read"}
    assert {read["text"] for read in row["read"]} == {"user: hi", "the reply"}
    refused = llm("generate", "hi", *flags, "--raw", "--attention", "--attention-by", "message")
    assert (refused.returncode, b"no messages" in refused.stderr) == (2, True)
    plain = json.loads(llm("generate", "hi", *flags, "--json").stdout)
    assert plain["tokens"][0]["attention"] is None


def test_attention_events_follow_the_token_events(babbler: Path) -> None:
    flags = ["generate", "hi", "-m", babbler, "-t", 0, "-n", 3, "--attention"]
    events = [json.loads(line) for line in llm(*flags, "--jsonl").stdout.splitlines()]
    assert [event["event"] for event in events] == ["prefill", *["step"] * 3, *["attention"] * 3, "finish"]
    whole = json.loads(llm(*flags, "--json").stdout)["tokens"]
    assert [event["attention"] for event in events[1:4]] == [None] * 3
    for event, token in zip(events[4:7], whole, strict=True):
        assert event == {"event": "attention", "index": token["index"], **token["attention"]}
    assert [token["attention"]["position"] for token in whole] == [events[0]["tokens"] - 1 + at for at in range(3)]


def test_an_incomplete_form_is_an_error_after_the_last_event(babbler: Path) -> None:
    form = ["--regex", "[ab]{3}", "--stop", "a", "--stop", "b"]
    result = llm("generate", "hi", "-m", babbler, *form, "--jsonl", "--attention")
    events = [json.loads(line)["event"] for line in result.stdout.splitlines()]
    assert events == ["prefill", "step", "attention", "finish"]
    assert result.returncode == 1 and b"The reply ended before it had the form" in result.stderr


def test_a_reply_can_be_written_as_html_and_svg(babbler: Path, tmp_path: Path) -> None:
    page, picture = tmp_path / "reply.html", tmp_path / "reply.svg"
    flags = ["-t", 0, "-n", 3, "--prefill", "<b>", "--top", 2, "--attention", "--html", page, "--svg", picture]
    assert llm("generate", "hi", "-m", babbler, *flags).returncode == 0
    for content in (page.read_text(), picture.read_text()):
        assert "&lt;b&gt;" in content and "<b>" not in content
        assert "could" in content and "sink" in content and "50%+" in content.replace("&#160;", " ")
        assert "://" not in content.replace("http://www.w3.org/", "")
