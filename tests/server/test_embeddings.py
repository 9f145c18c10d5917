"""`/v1/embeddings` against the hidden states of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import OpenAI

import llmcli
from llmcli import LoadedModel
from tests.support.models.tiny_checkpoints import shared_checkpoint
from tests.support.server import TestServer, serving


@pytest.fixture(scope="module")
def folder() -> Path:
    return shared_checkpoint("llama")


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return llmcli.load(folder, dtype="float32")


@pytest.fixture(scope="module")
def server(model: LoadedModel) -> Iterator[TestServer]:
    with serving(model) as running:
        yield running


def test_vectors_are_pooled_hidden_states_of_transformers(server: TestServer, model: LoadedModel, folder: Path) -> None:
    import transformers

    reference = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
    texts = ["A text.", "Another, longer text."]
    wanted = {}
    for text in texts:
        with torch.no_grad():
            hidden = reference(torch.tensor([model.tokenizer.encode(text)])).last_hidden_state[0]
        wanted[text] = {"mean": hidden.mean(0), "last": hidden[-1]}
    with OpenAI(base_url=server.url, api_key="unused", max_retries=0) as client:
        # The library asks for base64 unless told otherwise, and decodes it.
        for form in ({}, {"encoding_format": "float"}):
            for pooling in ("mean", "last"):
                more: Any = {**form, "extra_body": {"pooling": pooling}}
                found = client.embeddings.create(model="any", input=texts, **more)
                for text, item in zip(texts, found.data, strict=True):
                    vector = wanted[text][pooling]
                    torch.testing.assert_close(torch.tensor(item.embedding), vector / vector.norm(), atol=1e-5, rtol=0)
        ids = model.tokenizer.encode(texts[0])
        raw = client.embeddings.create(model="any", input=ids, extra_body={"normalize": False})
        torch.testing.assert_close(torch.tensor(raw.data[0].embedding), wanted[texts[0]]["last"], atol=1e-4, rtol=0)
        assert raw.usage.prompt_tokens == len(ids)


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ({"input": [[]]}, "input"),
        ({"input": {}}, "input"),
        ({"pooling": "max"}, "pooling"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"dimensions": 3}, "dimensions"),
    ],
)
def test_a_wrong_field_is_named(server: TestServer, field: dict[str, Any], param: str) -> None:
    answer = server.post("/v1/embeddings", **{"input": "x", **field})
    assert (answer.status, answer.json["error"]["param"]) == (400, param)
    assert server.post("/v1/embeddings", input="x" * 300).json["error"]["code"] == "context_length_exceeded"
