"""`/v1/completions` and the endpoints of the tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

import llmcli
from llmcli import LoadedModel
from llmcli.inspection.evaluation.perplexity import score
from llmcli.server.run import ServeSettings
from tests.support.models.tiny_checkpoints import shared_checkpoint
from tests.support.server import TestServer, serving


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return llmcli.load(shared_checkpoint("llama"), quantize="int8")


@pytest.fixture(scope="module")
def server(model: LoadedModel) -> Iterator[TestServer]:
    with serving(model) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: TestServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.url, api_key="unused", max_retries=0) as made:
        yield made


def test_a_text_a_list_and_ids_are_continued(client: OpenAI, model: LoadedModel) -> None:
    texts = ["Once upon", "The"]
    wanted = [model.generate(text, raw=True, seed=3, max_tokens=7).text for text in texts]
    asked: Any = {"model": "any", "max_tokens": 7, "seed": 3}
    ids = [model.tokenizer.encode(text) for text in texts]
    assert client.completions.create(prompt=texts[0], **asked).choices[0].text == wanted[0]
    assert client.completions.create(prompt=ids[0], **asked).choices[0].text == wanted[0]
    for prompts in (texts, ids):
        reply = client.completions.create(prompt=prompts, **asked)
        assert [(choice.index, choice.text) for choice in reply.choices] == list(enumerate(wanted))
        assert reply.usage is not None and reply.usage.completion_tokens == 14
    parts = ["", ""]
    for chunk in client.completions.create(prompt=texts, **asked, stream=True):
        parts[chunk.choices[0].index] += chunk.choices[0].text
    assert parts == wanted
    # Without a number, 16 tokens are written, as in OpenAI's API.
    usage = client.completions.create(prompt="Hi", model="any", seed=1, extra_body={"ignore_eos": True}).usage
    assert usage is not None and usage.completion_tokens == 16


def test_an_echoed_prompt_has_the_log_probabilities_of_llm_score(client: OpenAI, model: LoadedModel) -> None:
    text = "A text of which every token has a probability, é."
    ids = model.tokenizer.encode(text)
    wanted = score(model, ids, top=2).tokens
    asked: Any = {"model": "any", "temperature": 0, "max_tokens": 1, "logprobs": 2, "seed": 1234, "echo": True}
    for prompt in (text, [ids]):
        choice = client.completions.create(prompt=prompt, **asked).choices[0]
        found: Any = choice.logprobs
        assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == len(ids) + 1
        assert found.token_logprobs[0] is None and found.top_logprobs[0] is None
        assert found.token_logprobs[1:-1] == pytest.approx([token.logprob for token in wanted[1:]], abs=1e-6)
        for name, logprob, top in zip(found.tokens[1:], found.token_logprobs[1:], found.top_logprobs[1:], strict=True):
            assert top[name] >= logprob and len(top) <= 3
        # Greedy: the token is the most probable, and has the very same number.
        assert found.token_logprobs[-1] == max(found.top_logprobs[-1].values())
        starts = [sum(map(len, found.tokens[:number])) for number in range(len(found.tokens))]
        assert found.text_offset == starts
    without = client.completions.create(prompt=text, **{**asked, "logprobs": None}).choices[0]
    assert without.text.startswith(text) and without.logprobs is None
    # The prompt alone.
    choice = client.completions.create(prompt=text, **{**asked, "max_tokens": 0}).choices[0]
    alone: Any = choice.logprobs
    assert len(alone.tokens) == len(ids) and choice.text == text and choice.finish_reason == "length"


def test_a_prompt_that_is_read_in_part_has_the_same_reply(model: LoadedModel) -> None:
    loaded = llmcli.load(shared_checkpoint("llama", max_position_embeddings=700), quantize="int8")
    texts = ["x" * 300 + "abc", "x" * 300 + "abd" * 40, "x" * 299, "x" * 300 + "abd" * 40]
    with serving(loaded) as running:
        for number, text in enumerate(texts):
            asked = {"prompt": text, "max_tokens": 5, "seed": 2, "logprobs": 3}
            found = running.post("/v1/completions", **asked).json
            cached = found["usage"]["prompt_tokens_details"]["cached_tokens"]
            assert (cached > 256 and cached % 16 == 0) == (number > 0)
            with serving(loaded) as fresh:
                alone = fresh.post("/v1/completions", **asked).json
            assert alone["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
            assert found["choices"] == alone["choices"]


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [[99999]]}, "prompt"),
        ({"prompt": [[True]]}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": 21}, "logprobs"),
        ({"best_of": 3}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"messages": []}, "messages"),
    ],
)
def test_a_wrong_field_is_named(server: TestServer, field: dict[str, Any], param: str) -> None:
    answer = server.post("/v1/completions", **{"prompt": "Hi", "max_tokens": 2, **field})
    assert (answer.status, answer.json["error"]["param"]) == (400, param)


def test_one_prompt_that_is_too_long_is_an_error_of_the_request(server: TestServer) -> None:
    answer = server.post("/v1/completions", prompt=["Hi", "a" * 200])
    assert (answer.status, answer.json["error"]["code"]) == (400, "context_length_exceeded")


def test_texts_become_ids_and_ids_texts(server: TestServer, model: LoadedModel) -> None:
    text = "Hi <|end|>"
    found = server.post("/tokenize", prompt=text, add_special_tokens=False, return_token_strs=True).json
    # Spellings of control tokens are these tokens here: a harness asks for the end of a text that way.
    wanted = model.tokenizer.encode(text, add_special_tokens=False, control_tokens=True)
    assert (found["tokens"], found["count"], found["max_model_len"]) == (wanted, len(wanted), 128)
    assert found["token_strs"][-1] == "<|end|>" and model.tokenizer.eos_id == wanted[-1]
    assert server.post("/detokenize", tokens=wanted).json == {"prompt": text}
    assert server.post("/tokenize", prompt="a").json["tokens"] == model.tokenizer.encode("a")
    messages = [{"role": "user", "content": "Hi"}]
    chat = server.post("/tokenize", messages=messages).json["tokens"]
    usage = server.post("/v1/chat/completions", messages=messages, max_tokens=1).json["usage"]
    assert len(chat) == usage["prompt_tokens"]
    info = server.ask("GET", "/tokenizer_info").json
    assert (info["bos_token"], info["eos_token"]) == ("<|bos|>", "<|end|>") and "messages" in info["chat_template"]


@pytest.mark.parametrize(("path", "body"), [("/tokenize", {}), ("/detokenize", {}), ("/detokenize", {"tokens": [-1]})])
def test_a_wrong_request_to_the_tokenizer_is_an_error(server: TestServer, path: str, body: Any) -> None:
    assert server.ask("POST", path, body).status == 400


def test_replies_are_counted_and_logged(model: LoadedModel, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with serving(model, ServeSettings(metrics=True, log=log)) as running:
        for _ in range(2):
            running.post("/v1/completions", prompt=["Hi", "a"], max_tokens=3, seed=1, ignore_eos=True)
        text = running.ask("GET", "/metrics").body.decode()
    assert "llmcli:replies_total 4\n" in text and "llmcli:tokens_predicted_total 12\n" in text
    assert 'llmcli:ttft_seconds_bucket{le="+Inf"} 4\n' in text and "llmcli:requests_processing 0\n" in text
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["route"], line["status"], line["replies"], line["generated_tokens"]) for line in lines] == [
        ("/v1/completions", 200, 2, 6)
    ] * 2
    with serving(model) as running:
        assert running.ask("GET", "/metrics").status == 404
