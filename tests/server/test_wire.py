"""Requests and events survive the way over the socket with every bit."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

from llmcli.engine.events import (
    AttentionRow,
    Event,
    Finish,
    Prefill,
    Read,
    SampledCandidate,
    Stats,
    Step,
)
from llmcli.engine.guided.grammar import Rule
from llmcli.errors import UsageError
from llmcli.server.wire import (
    GenerateRequest,
    ReplyBegin,
    ReplyFailure,
    ReplyReader,
    StepAttention,
    attention_value,
    begin_value,
    event_value,
    line,
    read_request,
    request_line,
)
from llmcli.text.chat.messages import Message, ToolCall
from llmcli.text.chat.prompt_request import PromptRequest

REQUEST = GenerateRequest(
    PromptRequest(
        "Hällo \udce8",
        before=(
            Message("user", "Hi"),
            Message("assistant", "", (1, 2), True, "hm", tool_calls=(ToolCall("f", {"a": [1]}, "x"),)),
        ),
        system="Brief.",
        variables={"a": {"b": None}},
        prefill="So",
        after_gap=None,
        messages=(Message("user", "whole"),),
        continue_last=False,
    ),
    {"temperature": 0.1, "stop": ["a"], "seed": 1 << 62},
    ("15043+1",),
    Rule("regex", "a+", free_whitespace=True),
    probabilities=True,
    top=3,
    attention_by="word",
    context=100,
    session="s",
    begun=(3, 4),
    ids=(5, 6),
    state="begin",
    show_prompt=True,
    record=True,
    id="7-1",
    saved=True,
)
STATS = Stats(3, 1, 2, 0.1, None, 1 / 3, 10, "readable", acceptance_rate=0.5)


def test_a_request_is_read_as_it_was_written() -> None:
    assert read_request(json.loads(request_line(REQUEST))) == REQUEST
    brief = GenerateRequest(PromptRequest("Hi"))
    assert read_request(json.loads(request_line(brief))) == brief


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": 0},
        {"unknown": 1},
        {"top": "3"},
        {"prompt": None},
        {"prompt": {"text": 1}},
        {"prompt": {"text": "", "before": [1]}},
        {"form": {"kind": "regex"}},
        {"probabilities": 1},
        {"attention_by": "page"},
    ],
)
def test_a_malformed_request_is_an_error(change: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"request|object"):
        read_request({**json.loads(request_line(REQUEST)), **change})


@pytest.mark.parametrize(
    "event",
    [
        Prefill(5, 2, 0.1),
        Step(0, 7, ""),
        Step(
            3, 9, "é\n", -0.1, math.pi, 2, 0.3, (SampledCandidate(8, "\ufffd", -math.inf, 0.0, "top_k"),),
            origin="draft", thinking="hm",
        ),
        Finish("stop", STATS, "held", "back"),
    ],
)  # fmt: skip
def test_an_event_is_read_as_it_was_written(event: Event) -> None:
    reader = ReplyReader()
    assert reader.read(line(event_value(event, lambda token: bytes([token, 0xE9])))) == event
    if isinstance(event, Step):
        assert [reader.token_bytes(token) for token in (event.id, *(each.id for each in event.top))] == [
            bytes([token, 0xE9]) for token in (event.id, *(each.id for each in event.top))
        ]


def test_the_beginning_the_attention_and_an_error_are_read_as_they_were_written() -> None:
    begin = ReplyBegin(
        "m",
        "cpu",
        {"seed": 1},
        (1, 2),
        None,
        "So",
        "So",
        "",
        "plain",
        False,
        100,
        ("note",),
        (("a", False), ("é", True)),
    )
    row = AttentionRow(4, 0.1, 0.2, (Read(1, "a", 0.7),))
    reader = ReplyReader()
    assert reader.read(line(begin_value(begin))) == begin == reader.begin
    assert reader.read(line(attention_value(3, row, -0.1))) == StepAttention(3, row, -0.1)
    assert reader.read(line({"event": "record", "value": {"top": {"1": -math.inf}}})) is None
    assert reader.record == {"top": {"1": -math.inf}}
    assert reader.read(b'{"event": "error", "message": "No.", "exit_code": 6}\n') == ReplyFailure("No.", 6)
    reader.read(line({**event_value(Finish("stop", STATS), lambda token: b""), "complete": True}))
    assert reader.complete and not reader.awaits_answer
    assert reader.read(b'{"event": "end"}') is None
    reader.read(line({**event_value(Prefill(1, 0, 0.1), lambda token: b""), "can_end": False}))
    assert reader.can_end is False
    with pytest.raises(ValueError, match="unknown event"):
        reader.read(b'{"event": "more"}')


def test_the_text_of_a_saved_reply_has_its_thought_and_the_marks() -> None:
    reader = ReplyReader()
    for event, raw in (
        (Step(0, 1, "a"), "a"),
        (Step(1, 2, "", thinking="b"), "<think>b"),
        (Finish("stop", STATS), "c"),
    ):
        reader.read(line(event_value(event, lambda token: b"", raw=raw)))
        assert reader.raw_text == raw


@pytest.mark.slow
def test_a_client_needs_neither_torch_nor_the_tokenizer() -> None:
    code = "import llmcli.server.wire, llmcli.server.registry, sys; print([name for name in %r if name in sys.modules])"
    heavy = ["torch", "tokenizers", "starlette", "uvicorn", "rich"]
    assert subprocess.check_output([sys.executable, "-c", code % heavy], text=True).strip() == "[]"
