"""Texts of a model with states: what is read again, and that replies are those of a new engine."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llmcli.engine import Finish, Step
from llmcli.engine.batch.backend import BatchBackend
from llmcli.engine.speculative.decoder import SpeculationState
from llmcli.engine.speculative.draft_model import DraftModel
from llmcli.kernels.readable_step import ReadableStep
from llmcli.model import ModelConfig, Transformer
from tests.support.hybrid import GATED_STREAMS, HYBRID, hybrid_engine, hybrid_model, prefix_cache
from tests.support.models.tiny import random_ids
from tests.support.passes import GREEDY, broken, chunks, read, reply

PROMPT = random_ids(600)


@pytest.fixture(scope="module", params=["short convolution", "gated streams"])
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return HYBRID if request.param == "short convolution" else GATED_STREAMS


@pytest.fixture(scope="module")
def model(config: ModelConfig) -> Transformer:
    return hybrid_model(config=config)


@pytest.mark.parametrize("piece", [1, 7, 64, 65, 513])
def test_a_text_read_in_pieces_has_the_logits_of_the_whole(model: Transformer, piece: int) -> None:
    ids = torch.tensor([PROMPT[: 600 if piece > 7 else 40]])
    cache = model.new_cache()
    parts = [model(ids[:, start : start + piece], cache) for start in range(0, ids.shape[1], piece)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(ids), atol=5e-5, rtol=5e-5)


@pytest.mark.parametrize("block", range(HYBRID.num_layers))
def test_an_interrupted_pass_changes_neither_length_nor_states(model: Transformer, block: int) -> None:
    cache = prefix_cache(model)
    read(cache, PROMPT[:50])
    with broken(model, block), pytest.raises(KeyboardInterrupt):
        cache.read(PROMPT[:70])
    assert cache.length == 50
    assert torch.equal(cache.read(PROMPT[:70]), chunks(model, PROMPT[:70], 34, 50))


def test_going_back_to_a_mark_has_the_bits_of_a_text_read_anew(model: Transformer) -> None:
    cache = prefix_cache(model)
    # Chunks of 512, and the last 16 tokens alone.
    first = read(cache, PROMPT)
    assert torch.equal(first, chunks(model, PROMPT, 512, 584))
    other = [*PROMPT[:590], *random_ids(30, seed=5)]
    assert cache.begin(other, 1000) == 584
    assert torch.equal(cache.read(other), chunks(model, other, 512, 584, 604))
    # An edited question: back to the end of a chunk.
    edited = [*PROMPT[:520], *random_ids(60, seed=6)]
    assert cache.begin(edited, 1000) == 512
    assert torch.equal(cache.read(edited), chunks(model, edited, 512, 564))
    # The first prompt once more.
    assert cache.begin(PROMPT, 1000) == 512
    assert torch.equal(cache.read(PROMPT), first)


def test_a_reply_to_the_same_prompt_starts_at_its_end(model: Transformer) -> None:
    engine = hybrid_engine(model)
    first, _ = reply(engine, PROMPT)
    assert reply(engine, PROMPT) == (first, 600)
    drawn = replace(GREEDY, temperature=1.0, seed=1)
    assert reply(engine, PROMPT, drawn)[0] == reply(hybrid_engine(model), PROMPT, drawn)[0]


def test_five_turns_with_an_edit_an_undo_and_a_branch(model: Transformer) -> None:
    engine = hybrid_engine(model)
    turns: list[list[int]] = []
    cached: list[int] = []
    prompt = PROMPT[:300]

    def ask(ids: list[int]) -> list[int]:
        said, kept = reply(engine, ids)
        assert said == reply(hybrid_engine(model), ids)[0]
        turns.append([*ids, *said])
        cached.append(kept)
        return turns[-1]

    ask(prompt)
    for turn in range(1, 5):
        ask([*turns[-1], *random_ids(40, seed=turn)])
    # Each turn goes on at the end of the reply before, whose last token was not read.
    assert cached[1:] == [len(text) - 1 for text in turns[:4]]
    # Undone: the fourth question is asked in another way, and then the one before.
    ask([*turns[2], *random_ids(30, seed=11)])
    assert cached[-1] == len(turns[2]) - 1
    # Further back some marks are gone.
    ask([*turns[1], *random_ids(30, seed=12)])
    assert cached[-1] >= len(turns[1]) - 40
    # Another question, after a reply that the template does not repeat, as with thoughts.
    ask([*turns[-1][:-50], *random_ids(30, seed=13)])
    assert cached[-1] == len(turns[-2]) - 40 - 16
    # An edited first question.
    ask([*PROMPT[:250], *random_ids(30, seed=14)])
    assert cached[-1] == 0


@pytest.mark.parametrize("drafted", [False, True])
@pytest.mark.parametrize("tokens", [None, 4, 15])
def test_greedy_replies_with_proposals_equal_those_without(
    model: Transformer, config: ModelConfig, tokens: int | None, drafted: bool
) -> None:
    plain = hybrid_engine(model)
    # A draft model with other weights: few of its tokens are accepted.
    draft = DraftModel(prefix_cache(hybrid_model(1, config))) if drafted else None
    speculation = SpeculationState(lookup=True, draft=draft, tokens=tokens)
    ahead = hybrid_engine(model, speculation=speculation)
    word = random_ids(5, seed=3)
    ids, proposed = [*word, *random_ids(9), *word, *word[:3]], 0
    for turn in range(2):
        said, _ = reply(plain, ids)
        *events, finish = ahead.stream(ids, GREEDY, probabilities=False)
        assert [event.id for event in events if isinstance(event, Step)] == said
        assert isinstance(finish, Finish)
        proposed += finish.stats.proposed_tokens
        ids = [*ids, *said, *random_ids(3, seed=turn), *word]
    assert proposed > 0 or tokens is None


def test_proposals_by_the_model_itself_are_accepted(model: Transformer) -> None:
    speculation = SpeculationState(draft=DraftModel(prefix_cache(model)), tokens=4)
    *events, finish = hybrid_engine(model, speculation=speculation).stream(PROMPT, GREEDY, probabilities=False)
    assert isinstance(finish, Finish)
    assert finish.stats.acceptance_rate == 1
    assert [event.id for event in events if isinstance(event, Step)] == reply(hybrid_engine(model), PROMPT)[0]


def test_verified_logits_are_those_of_the_last_tokens_only(model: Transformer) -> None:
    cache = prefix_cache(model)
    read(cache, PROMPT[:100])
    cache.mark()
    cache.read_each(PROMPT[:108], 8)
    # Three of them are wrong: all eight are read again, with two more.
    assert cache.truncate(105) == 100
    assert cache.most_each(106) == 16 - 5
    rows = cache.read_each(PROMPT[:110], 5)
    expected = model(torch.tensor([PROMPT[:110]]))[0, -5:]
    torch.testing.assert_close(rows, expected, atol=5e-5, rtol=5e-5)


def test_logits_of_a_reply_are_those_it_was_chosen_from(model: Transformer) -> None:
    engine = hybrid_engine(model)
    steps = [event for event in engine.stream(PROMPT, GREEDY) if isinstance(event, Step)]
    ids = [step.id for step in steps]
    for at in (len(ids) - 1, 0, 7):
        logits = engine.next_logits([*PROMPT, *ids[:at]], prompt=len(PROMPT))
        assert float(logits.log_softmax(-1)[ids[at]]) == pytest.approx(steps[at].logprob, abs=1e-4)
    # The cache is as it was.
    assert reply(engine, [*PROMPT, *ids, 65])[1] == len(PROMPT) + len(ids) - 1


def test_texts_of_a_batch_do_not_change_each_other(model: Transformer) -> None:
    step = ReadableStep(model)
    texts = [PROMPT[:30], PROMPT[100:217], PROMPT[300:310]]
    caches = [model.new_cache() for _ in texts]
    for cache, text in zip(caches, texts, strict=True):
        step.forward(text, cache)
    # The second one is idle.
    logits = step.forward_rows([5, 7], [caches[0], caches[2]])
    for row, text in enumerate(([*texts[0], 5], [*texts[2], 7])):
        assert torch.equal(logits[row], chunks(model, text, len(text) - 1))
    assert torch.equal(step.forward([9], caches[1])[0], chunks(model, [*texts[1], 9], 117))
    backend = BatchBackend(model, step)
    assert backend.size == 1
    for text in texts[:2]:
        assert torch.equal(backend.read(0, text, 200), read(prefix_cache(model), text))


def test_the_last_of_several_unread_tokens_is_extended(model: Transformer) -> None:
    cache = prefix_cache(model)
    read(cache, PROMPT[:60])
    plain = int(chunks(model, PROMPT[:70], 60).argmax())
    assert cache.multi_step(PROMPT[:70], GREEDY, [0.5], []) == [plain]
    assert cache.length == 70
