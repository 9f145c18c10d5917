"""`/v1/decisions` with OpenAI's own library, against `llm generate --choices`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

import llmcli
from tests.support.models.tiny_checkpoints import shared_checkpoint
from tests.support.server import TestServer, serving
from tests.support.terminal.cli import llm


@pytest.fixture(scope="module")
def folder() -> Path:
    return shared_checkpoint("llama", max_position_embeddings=512)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[TestServer]:
    with serving(llmcli.load(folder)) as running:
        yield running


def shares(folder: Path, prompt: str, *answers: str) -> dict[str, float]:
    """The share of each answer that `llm generate --choices` finds."""
    result = llm("generate", prompt, "-m", folder, "--choices", json.dumps(answers), "--json", "--server", "off")
    return {choice["text"]: choice["prob"] for choice in json.loads(result.stdout)["choices"]}


def test_answers_have_the_probabilities_of_choices(server: TestServer, folder: Path) -> None:
    text = "The sky is blue."
    questions: Any = [
        {"type": "predicate", "name": "blue", "instructions": "Is it blue?"},
        {
            "type": "choice",
            "instructions": "Which color?",
            "choices": [{"value": "blue", "description": "as the sea"}, {"value": "dark red"}, {"value": True}],
        },
        {
            "type": "score",
            "instructions": "How blue?",
            "levels": [{"label": "not"}, {"label": "a bit"}, {"label": "very"}],
        },
    ]
    with OpenAI(base_url=server.url, api_key="unused", max_retries=0) as client:
        found = client.decisions.create(model="any", input=text, questions=questions)
    predicate, choice, score = [answer.model_dump() for answer in found.answers]
    wanted = shares(folder, f"{text}\n\nIs it blue?\n\nAnswer Yes or No.", "Yes", "No")
    assert predicate == {"type": "predicate", "name": "blue", "probability": pytest.approx(wanted["Yes"], abs=1e-6)}
    asks = "Answer with exactly one of these:\n- blue: as the sea\n- dark red\n- true"
    wanted = shares(folder, f"{text}\n\nWhich color?\n\n{asks}", "blue", "dark red", "true")
    assert [(each["value"], each["probability"]) for each in choice["probabilities"]] == [
        (value, pytest.approx(wanted[name], abs=1e-6))
        for value, name in (("blue", "blue"), ("dark red", "dark red"), (True, "true"))
    ]
    best = max(wanted, key=lambda name: wanted[name])
    assert (str(choice["choice"]).lower(), choice["confidence"]) == (best, pytest.approx(wanted[best], abs=1e-6))
    asks = "Answer with exactly one of these:\n- not\n- a bit\n- very"
    wanted = shares(folder, f"{text}\n\nHow blue?\n\n{asks}", "not", "a bit", "very")
    assert score["score"] == pytest.approx(wanted["a bit"] + 2 * wanted["very"], abs=1e-6)
    assert [each["value"] for each in score["probabilities"]] == [0, 1, 2]
    assert found.usage.input_tokens > 0


def test_messages_and_json_are_inputs(server: TestServer) -> None:
    messages = [
        {"role": "system", "content": "Be strict."},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_json", "data": {"b": 1}}]},
        {"role": "assistant", "content": "c"},
    ]
    question = {"type": "predicate", "instructions": [{"type": "input_text", "text": "Is it?"}]}
    answer = server.post("/v1/decisions", input=messages, questions=[question])
    assert answer.status == 200 and 0 < answer.json["answers"][0]["probability"] < 1


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": ""}, None),
        ({"input": []}, "input"),
        ({"input": [{"type": "function_call"}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input"),
        ({"questions": []}, "questions"),
        ({"questions": [{"type": "riddle", "instructions": "x"}]}, "questions[0].type"),
        ({"questions": [{"type": "predicate"}]}, "questions[0].instructions"),
        ({"questions": [{"type": "predicate", "instructions": "x", "more": 1}]}, "questions[0].more"),
        ({"questions": [{"type": "choice", "instructions": "x", "choices": [{"value": "a"}]}]}, "questions[0].choices"),
        (
            {"questions": [{"type": "choice", "instructions": "x", "choices": [{"value": "a"}, {"value": 1}]}]},
            "questions[0].choices",
        ),
        ({"questions": [{"type": "choice", "instructions": "x", "choices": [{"value": "a"}] * 2}]}, "questions[0]"),
        ({"questions": [{"type": "score", "instructions": "x", "levels": [{}, {}]}]}, "questions[0].levels"),
        ({"temperature": 1}, "temperature"),
    ],
)
def test_a_wrong_request_names_what_is_wrong(server: TestServer, change: dict[str, Any], param: str | None) -> None:
    body = {"input": "x", "questions": [{"type": "predicate", "instructions": "Is it?"}], **change}
    answer = server.post("/v1/decisions", **body)
    assert answer.status == (200 if param is None else 400)
    assert param is None or answer.json["error"]["param"] == param
