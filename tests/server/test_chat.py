"""`/v1/chat/completions` with OpenAI's own library as the client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

import llmcli
from llmcli import LoadedModel
from llmcli.server.run import ServeSettings
from tests.support.models.puppet import write_thinker
from tests.support.models.tiny_checkpoints import shared_checkpoint
from tests.support.server import TestServer, serving

MESSAGES: Any = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return llmcli.load(shared_checkpoint("llama"))


@pytest.fixture(scope="module")
def server(model: LoadedModel) -> Iterator[TestServer]:
    with serving(model) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: TestServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.url, api_key="unused", max_retries=0) as made:
        yield made


def test_models_are_listed(client: OpenAI, model: LoadedModel) -> None:
    [listed] = client.models.list().data
    assert (listed.id, listed.owned_by) == (model.name, "llmcli")
    assert client.models.retrieve(model.name).id == model.name
    assert client.models.retrieve("other").id == model.name


def test_with_strict_names_only_the_model_is_found(model: LoadedModel) -> None:
    with serving(model, ServeSettings(strict_model=True)) as server, OpenAI(base_url=server.url, api_key="x") as client:
        assert client.models.retrieve(model.name).id == model.name
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("other")


def test_a_reply_is_that_of_the_python_api(client: OpenAI, model: LoadedModel) -> None:
    cases: list[dict[str, Any]] = [{"temperature": 0.0}, {"seed": 3}, {"seed": 4, "top_p": 0.5, "stop": ["e", "\n"]}]
    for settings in cases:
        reply = client.chat.completions.create(model="any", messages=MESSAGES, max_tokens=12, **settings)
        wanted = model.generate(MESSAGES, max_tokens=12, **{**settings, "stop": tuple(settings.get("stop", ()))})
        [choice] = reply.choices
        assert choice.message.content == wanted.text
        assert choice.finish_reason == ("length" if wanted.finish_reason == "length" else "stop")
        assert reply.usage is not None and reply.model == "any"
        counts = reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens
        read, written = wanted.stats.prompt_tokens, wanted.stats.generated_tokens
        assert counts == (read, written, read + written)


def test_a_stream_adds_up_to_the_reply(client: OpenAI) -> None:
    asked: Any = {"model": "any", "messages": MESSAGES, "max_tokens": 9, "seed": 2}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1
    without = list(client.chat.completions.create(**asked, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in without)


def test_log_probabilities_are_the_models_own(client: OpenAI, model: LoadedModel) -> None:
    asked: Any = {"model": "any", "messages": MESSAGES, "max_tokens": 5, "seed": 2, "logprobs": True}
    reply = client.chat.completions.create(**asked, top_logprobs=3, temperature=0.3)
    wanted = model.generate(MESSAGES, max_tokens=5, seed=2, temperature=0.3, top=3)
    assert reply.choices[0].logprobs is not None and reply.choices[0].logprobs.content is not None
    content = reply.choices[0].logprobs.content
    assert [entry.logprob for entry in content] == [step.logprob for step in wanted.tokens]
    for entry, step in zip(content, wanted.tokens, strict=True):
        assert bytes(entry.bytes or ()) == model.tokenizer.token_bytes(step.id)
        assert [each.logprob for each in entry.top_logprobs] == [each.logprob for each in step.top]
    chunks = list(client.chat.completions.create(**asked, top_logprobs=3, temperature=0.3, stream=True))
    parts = [part for chunk in chunks if (part := chunk.choices[0].logprobs) is not None]
    assert [entry for part in parts for entry in part.content or ()] == content


@pytest.mark.parametrize(
    "field",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer"}}}},
        {"extra_body": {"grammar": 'start: "yes" | "no"'}},
        {"extra_body": {"structured_outputs": {"choice": ["yes", "no"]}}},
        {"extra_body": {"structured_outputs": {"regex": "[a-c]{2,4}"}}},
    ],
)
def test_a_reply_has_the_form_that_is_asked_for(client: OpenAI, field: dict[str, Any]) -> None:
    import json
    import re

    pytest.importorskip("llguidance")
    reply = client.chat.completions.create(model="any", messages=MESSAGES, max_tokens=40, seed=1, **field)
    text = reply.choices[0].message.content or ""
    if "response_format" in field:
        assert isinstance(json.loads(text), int if "json_schema" in field["response_format"] else dict)
    else:
        assert re.fullmatch("yes|no|[a-c]{2,4}", text)


def test_a_thought_is_apart_from_the_answer(tmp_path: Any) -> None:
    model = llmcli.load(write_thinker(tmp_path / "thinker", b"ab", b"cd"))
    wanted = model.generate("Hi", temperature=0)
    assert wanted.thinking and wanted.text
    with serving(model) as server, OpenAI(base_url=server.url, api_key="unused", max_retries=0) as client:
        asked: Any = {"model": "any", "messages": MESSAGES, "temperature": 0}
        reply = client.chat.completions.create(**asked)
        message: Any = reply.choices[0].message
        assert (message.content, message.reasoning_content, message.reasoning) == (
            wanted.text,
            wanted.thinking,
            wanted.thinking,
        )
        assert reply.usage is not None and reply.usage.completion_tokens_details is not None
        assert reply.usage.completion_tokens_details.reasoning_tokens
        deltas: list[Any] = [chunk.choices[0].delta for chunk in client.chat.completions.create(**asked, stream=True)]
        assert "".join(getattr(delta, "reasoning_content", "") for delta in deltas) == wanted.thinking
        assert "".join(getattr(delta, "content", "") or "" for delta in deltas) == wanted.text


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ({"n": 2}, "n"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": -1}, "seed"),
        ({"stop": 3}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}}, "response_format"),
        ({"grammar": "start: ("}, "grammar"),
        ({"unknown_field": 1}, "unknown_field"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"reasoning_effort": 3}, "reasoning_effort"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"continue_final_message": True}, "messages"),
    ],
)
def test_what_is_not_done_is_an_error_that_names_the_field(server: TestServer, field: Any, param: str) -> None:
    answer = server.post("/v1/chat/completions", **{"messages": MESSAGES, "max_tokens": 2, **field})
    assert answer.status == 400
    error = answer.json["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert error["message"].endswith(".")


def test_fields_without_an_effect_are_accepted(server: TestServer) -> None:
    more = {"user": "me", "metadata": {}, "store": True, "n": 1, "tools": [], "tool_choice": "none", "top_k": -1}
    more |= {"frequency_penalty": 0, "response_format": {"type": "text"}, "parallel_tool_calls": True, "seed": None}
    assert server.post("/v1/chat/completions", messages=MESSAGES, max_tokens=1, **more).status == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (rb'{"messages": [{"role": "user", "content": "a\ud83d"}]}', "messages"),
        (rb'{"messages": [{"role": "user", "content": "a"}], "stop": ["\uDe00"]}', "stop"),
        (rb'{"messages": [{"role": "user", "content": "a"}], "\ud800": 1}', "?"),
    ],
)
def test_half_of_a_surrogate_pair_is_an_error(server: TestServer, body: bytes, param: str) -> None:
    answer = server.ask("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    assert (answer.status, answer.json["error"]["param"]) == (400, param)


def test_a_surrogate_pair_is_a_character(server: TestServer) -> None:
    body = rb'{"max_tokens": 1, "messages": [{"role": "user", "content": "\ud83d\ude00"}]}'
    assert server.ask("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"}).status == 200


def test_a_prompt_that_is_too_long_is_an_error_with_both_numbers(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"203 tokens.*context holds 128") as caught:
        client.chat.completions.create(model="any", messages=[{"role": "user", "content": "a" * 199}])
    assert caught.value.code == "context_length_exceeded"


def test_without_a_limit_a_reply_ends_with_the_context(server: TestServer) -> None:
    answer = server.post("/v1/chat/completions", messages=MESSAGES, seed=1, ignore_eos=True).json
    assert answer["usage"]["total_tokens"] == 128
    assert answer["choices"][0]["finish_reason"] == "length"


def test_ids_are_returned_on_request(server: TestServer, model: LoadedModel) -> None:
    answer = server.post("/v1/chat/completions", messages=MESSAGES, seed=1, max_tokens=4, return_token_ids=True).json
    assert model.tokenizer.decode(answer["choices"][0]["token_ids"]) == answer["choices"][0]["message"]["content"]
    assert len(answer["prompt_token_ids"]) == answer["usage"]["prompt_tokens"]
