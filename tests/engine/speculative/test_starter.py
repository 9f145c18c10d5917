"""With a real model: twenty greedy replies have the same tokens with each kind of proposal as without."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import llmcli
from llmcli.engine import SamplingParams, Step
from llmcli.hub.starter import fetch_starter, starter_path
from llmcli.kernels.select import why_not_on_cpu
from llmcli.loaded_model import LoadedModel
from llmcli.model import Transformer

pytestmark = pytest.mark.starter

TOKENS = 4
TOPICS = ("The sea", "Mars", "Maria", "1984")
BEGINNINGS = ("{0} is", "{0} was never", "{0}, 1, 2, 3, {0}, 1, 2, 3, {0}", "print('{0}')\nprint('{0}')", "{0}?\n\nI")
PROMPTS = [beginning.format(topic) for topic in TOPICS for beginning in BEGINNINGS]


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return llmcli.load(starter_path() or fetch_starter(), device="cpu")


def pruned(loaded: LoadedModel, layers: int) -> LoadedModel:
    """The model without its last layers."""
    config = replace(loaded.config, layers=loaded.config.layers[:layers])
    model = copy.copy(loaded.model)
    model.__dict__ = {**loaded.model.__dict__, "_modules": dict(loaded.model._modules), "config": config}
    model.layers = nn.ModuleList(list(loaded.model.layers)[:layers])
    model._kind_of_layer = loaded.model._kind_of_layer[:layers]
    return replace(loaded, name="pruned", config=config, model=model)


def tiny(loaded: LoadedModel) -> LoadedModel:
    """A random model of the same vocabulary."""
    config = replace(
        loaded.config,
        layers=loaded.config.layers[:1],
        hidden_size=32,
        intermediate_size=32,
        num_heads=3,
        num_kv_heads=3,
    )
    torch.manual_seed(0)
    model = Transformer(config).requires_grad_(False).eval()
    for parameter in model.parameters():
        parameter.normal_(0, 0.2)
    return replace(loaded, name="tiny", config=config, model=model)


def said(loaded: LoadedModel, prompts: list[str], tokens: int, **options: Any) -> tuple[list[list[int]], int]:
    """The ids of each reply, and how many of them were proposed."""
    engine = loaded.engine(**options)
    replies, proposed = [], 0
    for prompt in prompts:
        ids = loaded.tokenizer.encode(prompt)
        params = SamplingParams(temperature=0, max_tokens=tokens)
        steps = [event for event in engine.stream(ids, params, probabilities=False) if isinstance(event, Step)]
        replies.append([step.id for step in steps])
        proposed += sum(step.origin != "model" for step in steps)
    return replies, proposed


def test_twenty_greedy_replies_are_the_same_with_each_kind_of_proposal(loaded: LoadedModel) -> None:
    assert len(set(PROMPTS)) == 20
    if why_not_on_cpu(loaded.config, torch.device("cpu")) is not None:
        pytest.skip("without the kernel a pass of several tokens adds up in another order")
    plain, _ = said(loaded, PROMPTS, TOKENS)
    helped: dict[str, dict[str, Any]] = {
        "lookup": {"lookup": True, "draft_tokens": 4},
        "pruned": {"draft": pruned(loaded, 20), "draft_tokens": 3},
        "tiny": {"draft": tiny(loaded), "draft_tokens": 2},
        "itself": {"draft": loaded, "draft_tokens": 3},
    }
    for name, options in helped.items():
        replies, proposed = said(loaded, PROMPTS, TOKENS, **options)
        assert replies == plain, name
        assert proposed > 0 or name == "tiny"
