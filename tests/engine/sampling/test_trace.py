"""How a token was chosen, and replies that continue from another choice."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import llmcli
from llmcli.engine import Finish, SamplingParams, Step
from llmcli.engine.sampling.sampler import Sampler
from llmcli.engine.sampling.trace import choices
from llmcli.errors import PromptTooLongError
from tests.support.models.puppet import chain, ids_of, write_puppet
from tests.support.models.tiny import random_ids
from tests.support.models.tiny_checkpoints import tiny_checkpoint

GREEDY = SamplingParams(temperature=0, max_tokens=8)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> llmcli.LoadedModel:
    return llmcli.load(tiny_checkpoint(tmp_path_factory.mktemp("m"), "llama"), dtype="float32")


def test_choices_have_each_filter_and_the_first_that_removed_a_token(loaded: llmcli.LoadedModel) -> None:
    prompt = random_ids(12)
    params = SamplingParams(temperature=0.7, top_k=20, top_p=0.5, min_p=0.3, repeat_penalty=1.3)
    logits = loaded.engine().next_logits(prompt)
    torch.testing.assert_close(logits, loaded.logits(prompt)[-1, : len(logits)])
    found = choices(logits, params, prompt, loaded.tokenizer, top=30)
    own = logits.float().softmax(-1)
    sampled = Sampler(params).distribution(logits, prompt)
    assert [choice.rank for choice in found] == list(range(1, 31))
    for choice in found:
        assert math.exp(choice.logprob) == pytest.approx(float(own[choice.id]), rel=1e-4)
        assert choice.sampled_prob == pytest.approx(float(sampled[choice.id]))
        gone = [name for name, probability in choice.after if probability == 0]
        assert choice.removed_by == (gone[0] if gone else None)
    assert {choice.removed_by for choice in found} >= {"top_k", "top_p", None}


def test_the_chosen_token_is_among_the_candidates_however_rare(loaded: llmcli.LoadedModel) -> None:
    logits = loaded.engine().next_logits(random_ids(5))
    rarest = int(logits.argmin())
    found = choices(logits, GREEDY, (), loaded.tokenizer, top=2, taken=rarest)
    assert (found[-1].id, found[-1].rank, found[-1].removed_by) == (rarest, len(logits), "temperature")
    assert len(found) == 3


def test_a_continued_reply_has_the_same_tokens_as_before(loaded: llmcli.LoadedModel) -> None:
    prompt, engine = random_ids(10), loaded.engine()
    whole = [event for event in engine.stream(prompt, GREEDY) if isinstance(event, Step)]
    begun = [step.id for step in whole[:3]]
    events = list(engine.stream(prompt, SamplingParams(temperature=0, max_tokens=5), begun=begun))
    again = [event for event in events if isinstance(event, Step)]
    assert [(step.index, step.id, step.text) for step in again] == [(s.index, s.id, s.text) for s in whole]
    assert [step.logprob is None for step in again] == [True] * 3 + [False] * 5
    finish = events[-1]
    assert isinstance(finish, Finish)
    assert finish.stats.generated_tokens == 5
    # All but the last token was still in the cache.
    assert finish.stats.cached_tokens == len(prompt) + 2


def test_a_continued_reply_completes_a_partial_character(tmp_path: Path) -> None:
    loaded = llmcli.load(write_puppet(tmp_path, chain("é".encode())))
    prompt = [259]
    events = list(loaded.engine().stream(prompt, GREEDY, begun=ids_of(b"\xc3")))
    assert [event.text for event in events if isinstance(event, Step)] == ["", "é"]


def test_the_text_before_the_next_token_must_leave_room_for_it(loaded: llmcli.LoadedModel) -> None:
    with pytest.raises(PromptTooLongError):
        loaded.engine(context_length=12).next_logits(random_ids(12))
    with pytest.raises(PromptTooLongError):
        loaded.engine(context_length=12).stream(random_ids(8), begun=random_ids(4))
