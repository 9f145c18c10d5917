"""The command line's protocol over the private socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest

import llmcli
from llmcli import Finish, LoadedModel, Prefill, Step
from llmcli.engine.guided.grammar import Rule
from llmcli.errors import OutOfMemoryError
from llmcli.server.wire import (
    GenerateRequest,
    ReplyFailure,
    ReplyReader,
    StepAttention,
    request_line,
)
from llmcli.text.chat.messages import Message
from llmcli.text.chat.prompt_request import PromptRequest
from tests.support.models.tiny_checkpoints import shared_checkpoint
from tests.support.server import TestServer, serving


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return llmcli.load(shared_checkpoint("llama"))


@pytest.fixture(scope="module")
def server(model: LoadedModel) -> Iterator[TestServer]:
    with serving(model) as running:
        yield running


def ask(server: TestServer, request: GenerateRequest) -> tuple[ReplyReader, list[Any]]:
    """The values of all lines, and what the reader keeps."""
    answer = server.ask("POST", "/internal/generate", json.loads(request_line(request)), private=True)
    assert answer.status == 200, answer.body
    reader = ReplyReader()
    return reader, [reader.read(line) for line in answer.body.splitlines()]


@pytest.mark.parametrize("settings", [{"temperature": 0, "max_tokens": 9}, {"seed": 5, "max_tokens": 9, "stop": ["e"]}])
def test_the_events_are_those_of_the_engine(server: TestServer, model: LoadedModel, settings: dict[str, Any]) -> None:
    request = GenerateRequest(PromptRequest("Hi", system="Be brief."), settings, probabilities=True, top=3)
    reader, events = ask(server, request)
    stops = {**settings, "stop": tuple(settings.get("stop", ()))}
    wanted = list(model.stream("Hi", system="Be brief.", top=3, **stops))
    steps = [event for event in events if isinstance(event, Step)]
    assert steps == [event for event in wanted if isinstance(event, Step)]
    prefill, finish = wanted[0], wanted[-1]
    assert isinstance(prefill, Prefill) and isinstance(finish, Finish)
    assert (events[1].tokens, events[1].cached) == (prefill.tokens, 0)
    [last] = [event for event in events if isinstance(event, Finish)]
    assert (last.reason, last.text) == (finish.reason, finish.text)
    assert last.stats.generated_tokens == finish.stats.generated_tokens and reader.ended
    begin = reader.begin
    assert begin is not None and begin == events[0]
    assert (
        begin.model == model.name and begin.is_chat and begin.params["temperature"] == settings.get("temperature", 0.8)
    )
    for step in steps:
        assert reader.token_bytes(step.id) == model.tokenizer.token_bytes(step.id)
        assert all(reader.token_bytes(each.id) == model.tokenizer.token_bytes(each.id) for each in step.top)


def test_a_raw_text_a_prefill_and_a_conversation_are_prompts(server: TestServer, model: LoadedModel) -> None:
    settings = {"temperature": 0, "max_tokens": 5}
    reader, events = ask(server, GenerateRequest(PromptRequest("Once", raw=True), settings))
    assert [event.id for event in events if isinstance(event, Step)] == [
        step.id for step in model.generate("Once", raw=True, temperature=0, max_tokens=5).tokens
    ]
    assert reader.begin is not None and not reader.begin.is_chat
    reader, events = ask(server, GenerateRequest(PromptRequest("Hi", prefill="So"), settings))
    wanted = model.generate("Hi", prefill="So", temperature=0, max_tokens=5)
    assert [event.id for event in events if isinstance(event, Step)] == [step.id for step in wanted.tokens]
    assert reader.begin is not None and reader.begin.prefill == "So"
    assert model.tokenizer.decode(reader.begin.begun_ids or ()) == "So"
    before = (Message("user", "a"), Message("assistant", "b", tuple(model.tokenizer.encode("b")[1:]), is_reply=True))
    reader, events = ask(server, GenerateRequest(PromptRequest("c", before=before), settings))
    wanted = model.generate([*before, Message("user", "c")], temperature=0, max_tokens=5)
    assert [event.id for event in events if isinstance(event, Step)] == [step.id for step in wanted.tokens]


def test_attention_comes_after_the_reply(server: TestServer, model: LoadedModel) -> None:
    request = GenerateRequest(
        PromptRequest("Hi"), {"seed": 1, "max_tokens": 3}, probabilities=True, attention_by="word"
    )
    reader, events = ask(server, request)
    steps = [event for event in events if isinstance(event, Step)]
    rows = [event for event in events if isinstance(event, StepAttention)]
    assert [row.index for row in rows] == [step.index for step in steps] and reader.ended
    assert all(row.row.read and row.logprob is not None for row in rows)
    assert [row.logprob for row in rows] == pytest.approx([step.logprob for step in steps], abs=0.05)


def test_a_form_is_kept_and_reported(server: TestServer) -> None:
    pytest.importorskip("llguidance")
    request = GenerateRequest(PromptRequest("Hi"), {"seed": 1, "max_tokens": 20}, form=Rule("regex", "[ab]{3}"))
    reader, events = ask(server, request)
    text = "".join(event.text for event in events if isinstance(event, Step | Finish))
    assert set(text) <= set("ab") and len(text) == 3
    assert reader.complete and reader.can_end


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (GenerateRequest(PromptRequest("a" * 200)), "too long"),
        (GenerateRequest(PromptRequest("Hi", after_gap="x")), "fill"),
        (GenerateRequest(PromptRequest("Hi"), {"temperature": -1}), "temperature"),
        (GenerateRequest(PromptRequest("Hi"), {"temperature": "a"}), "wrong type"),
        (GenerateRequest(PromptRequest("Hi"), {"what": 1}), "what"),
        (GenerateRequest(PromptRequest("Hi"), logit_bias=("no such token+1",)), "logit-bias"),
        (GenerateRequest(PromptRequest("Hi"), {"max_tokens": 2}, form=Rule("regex", "[ab]{9}")), "needs 9"),
    ],
)
def test_a_request_that_cannot_be_answered_is_an_error(
    server: TestServer, request_: GenerateRequest, words: str
) -> None:
    answer = server.ask("POST", "/internal/generate", json.loads(request_line(request_)), private=True)
    assert answer.status == 400
    assert words in answer.json["error"]["message"] and answer.json["error"]["exit_code"] >= 1


def test_an_error_of_the_reply_is_the_last_line(server: TestServer) -> None:
    scheduler = server.server.scheduler
    assert scheduler is not None
    with mock.patch.object(scheduler._steps, "next", side_effect=OutOfMemoryError("No memory.")):
        _, events = ask(server, GenerateRequest(PromptRequest("Hi"), {"max_tokens": 2}))
    assert events[-1] == ReplyFailure("No memory.", 5)


def test_a_reply_is_continued_recorded_and_cancelled(server: TestServer, model: LoadedModel) -> None:
    settings = {"temperature": 0, "max_tokens": 6}
    _, events = ask(server, GenerateRequest(PromptRequest("Hi"), settings))
    ids = tuple(event.id for event in events if isinstance(event, Step))
    reader, events = ask(server, GenerateRequest(PromptRequest("Hi"), {**settings, "max_tokens": 3}, begun=ids[:3]))
    assert tuple(event.id for event in events if isinstance(event, Step)) == ids
    request = GenerateRequest(PromptRequest("Hi"), settings, probabilities=True, top=5, record=True, show_prompt=True)
    reader, events = ask(server, request)
    assert reader.record is not None and reader.begin is not None
    assert reader.record["prompt_ids"] == list(reader.begin.prompt_ids)
    assert reader.begin is not None and reader.begin.prompt_pieces is not None
    assert len(reader.begin.prompt_pieces) == len(reader.begin.prompt_ids)
    assert not server.ask("POST", "/internal/cancel", {"id": "unknown"}, private=True).json["found"]


def test_a_chat_has_the_replies_of_one_process(model: LoadedModel) -> None:
    loaded = llmcli.load(shared_checkpoint("llama", max_position_embeddings=512))
    chat = loaded.chat(temperature=0, max_tokens=9)
    before: tuple[Message, ...] = ()
    with serving(loaded) as server:
        for question in ("Hi", "And?", "Why is that so?"):
            wanted = chat.send(question, probabilities=True, top=2)
            prompt = PromptRequest(question, before=before)
            request = GenerateRequest(prompt, {"temperature": 0, "max_tokens": 9}, top=2, session="a")
            _, events = ask(server, request)
            # Whether a token is proposed before it is computed depends on measured times; its values do not.
            steps = [replace(event, origin="model") for event in events if isinstance(event, Step)]
            assert steps == [replace(step, origin="model") for step in wanted.tokens]
            [prefill] = [event for event in events if isinstance(event, Prefill)]
            assert (prefill.cached > 0) == bool(before)
            before = chat.messages
        # Another chat begins anew.
        _, events = ask(server, GenerateRequest(PromptRequest("Hi"), {"max_tokens": 2}, session="b"))
        [prefill] = [event for event in events if isinstance(event, Prefill)]
        assert prefill.cached == 0


def test_the_state_is_told(server: TestServer) -> None:
    state = server.ask("GET", "/internal/status", private=True).json
    assert (state["pid"], state["model"]) == (server.state.pid, server.state.model)
    assert state["busy"] == state["waiting"] == 0 and state["memory_bytes"] > 0 and state["requests"] > 0
