from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import llmcli
from llmcli.errors import PromptTooLongError, UsageError
from llmcli.hub.starter import fetch_starter, starter_path
from llmcli.inspection.causal.prompt_ablation import (
    answer_ids,
    find_text,
    own_answer,
    parse_positions,
    scan_words,
    without_span,
)
from llmcli.inspection.evaluation.perplexity import score
from llmcli.text.chat.prompt import Message, encode_chat
from tests.support.models.puppet import BOS, END, chain, ids_of, write_puppet
from tests.support.models.tiny import random_ids, save, tiny_model
from tests.support.models.tiny_checkpoints import tiny_checkpoint

PROMPT, ANSWER = random_ids(30), random_ids(4, seed=2)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, llmcli.LoadedModel]:
    model = tiny_model("llama")
    return model, llmcli.load(save(model, tmp_path_factory.mktemp("model")), dtype="float32", device="cpu")


@pytest.fixture
def loaded(pair: tuple[Any, llmcli.LoadedModel]) -> llmcli.LoadedModel:
    return pair[1]


@torch.inference_mode()
@pytest.mark.parametrize("hidden", [[0], [29], [5, 6, 20], list(range(30))], ids=str)
def test_hiding_is_a_mask_and_removing_a_shorter_text(pair: tuple[Any, llmcli.LoadedModel], hidden: list[int]) -> None:
    model, loaded = pair
    told: list[tuple[int, int]] = []
    found = without_span(loaded, PROMPT, ANSWER, hidden, rows_at_once=3, progress=lambda *report: told.append(report))
    assert told == [(1, 3), (2, 3), (3, 3)]
    ids = [*PROMPT, *ANSWER]
    visible = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
    before = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    visible[:, hidden] = False
    visible[hidden, hidden] = True
    mask = torch.where(visible, 0.0, torch.finfo(torch.float32).min)[None, None]
    masked = model(torch.tensor([ids]), attention_mask=mask).logits[0].log_softmax(-1)

    def probs(logprobs: torch.Tensor) -> list[float]:
        return [float(logprobs[29 + place, token].exp()) for place, token in enumerate(ANSWER)]

    assert [token.id for token in found.answer] == ANSWER
    assert [token.before for token in found.answer] == pytest.approx(probs(before), rel=1e-3)
    assert [token.hidden for token in found.answer] == pytest.approx(probs(masked), rel=1e-3)
    assert found.total.before == pytest.approx(sum(math.log(token.before) for token in found.answer))
    assert found.total.hidden == pytest.approx(sum(math.log(token.hidden) for token in found.answer))
    assert found.instead.before.id == int(before[29, : loaded.tokenizer.vocab_size].argmax())
    assert found.instead.hidden.id == int(masked[29, : loaded.tokenizer.vocab_size].argmax())
    assert found.instead.hidden.prob == pytest.approx(float(masked[29].exp().max()), rel=1e-3)
    assert (found.span.positions, found.span.ends_prompt) == (tuple(hidden), 29 in hidden)
    kept = [token for place, token in enumerate(PROMPT) if place not in hidden]
    if not kept:
        assert {token.removed for token in found.answer} == {None} == {found.total.removed, found.instead.removed}
        return
    shorter = score(loaded, [*kept, *ANSWER]).tokens[-4:]
    removed = [token.logprob for token in shorter]
    assert [math.log(token.removed or 0) for token in found.answer] == pytest.approx(removed, abs=1e-4)
    assert found.total.removed == pytest.approx(sum(logprob or 0 for logprob in removed), abs=1e-3)


def test_tokens_outside_all_windows_can_be_hidden_but_not_removed_without_effect(tmp_path: Path) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path, "mistral", sliding_window=4, num_hidden_layers=2), dtype="float32")
    found = without_span(loaded, PROMPT, ANSWER, [20])
    for token in found.answer:
        assert token.hidden == pytest.approx(token.before, rel=1e-3)
    # The token itself is outside the window; removing it moves others into it.
    assert found.total.removed == pytest.approx(found.total.before, abs=1e-3)
    near = without_span(loaded, PROMPT, ANSWER, [28])
    assert abs(near.total.hidden - near.total.before) > 0.01


def test_every_word_is_hidden_in_turn(loaded: llmcli.LoadedModel) -> None:
    text = "one two, three"
    ids, told = loaded.tokenizer.encode(text), list[tuple[int, int]]()
    found = scan_words(loaded, ids, ANSWER, progress=lambda done, total: told.append((done, total)))
    assert sorted(word.positions for word in found.words) == [
        (1, 2, 3), tuple(range(4, 9)), tuple(range(9, 15))
    ]  # fmt: skip
    assert {word.text for word in found.words} == {"one", " two,", " three"}
    changes = [word.hidden for word in found.words]
    assert changes == sorted(changes)
    for word in found.words:
        single = without_span(loaded, ids, ANSWER, word.positions)
        assert word.hidden == pytest.approx(single.total.hidden - single.total.before, abs=1e-5)
        assert found.before == pytest.approx(single.total.before, abs=1e-5)
        assert word.ends_prompt == single.span.ends_prompt == (word.text == " three")
    assert [token.id for token in found.answer] == ANSWER
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_words_of_the_chat_template_are_not_hidden(loaded: llmcli.LoadedModel) -> None:
    assert loaded.template is not None
    text = "a user is a user"
    messages = [Message("system", "a user asks"), Message("user", text)]
    ids = encode_chat(loaded.tokenizer, loaded.template, messages)
    start = len(ids) - len(text) - 2  # then come the end of the message and the beginning of the reply
    assert loaded.tokenizer.decode(ids[start:-2], skip_special=False) == text
    inside = find_text(loaded.tokenizer, ids, "user", within=text)
    assert inside == (*range(start + 2, start + 6), *range(start + 12, start + 16))
    assert len(find_text(loaded.tokenizer, ids, "user")) == 12
    words = scan_words(loaded, ids, ANSWER, within=text).words
    assert sorted(word.positions for word in words)[0][0] == start
    assert sorted(word.text.strip() for word in words) == ["a", "a", "is", "user", "user"]


@pytest.mark.parametrize(
    ("span", "positions"),
    [("b", (2, 4)), ("bé", (4, 5, 6)), ("é", (5, 6)), ("abab", (1, 2, 3, 4)), ("aba", (1, 2, 3)), (" ", (7,))],
)
def test_text_is_found_wherever_it_occurs(loaded: llmcli.LoadedModel, span: str, positions: tuple[int, ...]) -> None:
    # One token a byte: BOS a b a b é(2) space x
    ids = loaded.tokenizer.encode("ababé x")
    assert find_text(loaded.tokenizer, ids, span) == positions


def test_overlapping_occurrences_count(loaded: llmcli.LoadedModel) -> None:
    assert find_text(loaded.tokenizer, loaded.tokenizer.encode("aaa"), "aa") == (1, 2, 3)


@pytest.mark.parametrize(
    ("span", "words"),
    [("", "empty"), ("zzz", "nearest tokens are"), ("<|bos|>", "does not contain"), ("\ud800", "does not contain")],
)
def test_missing_text_is_named_with_similar_tokens(loaded: llmcli.LoadedModel, span: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        find_text(loaded.tokenizer, loaded.tokenizer.encode("some text"), span)
    with pytest.raises(UsageError, match=r"empty|only control tokens"):
        find_text(loaded.tokenizer, [BOS, END], span)


@pytest.mark.parametrize(
    ("text", "positions"), [("4", (4,)), ("3-5", (3, 4, 5)), ("9,0,1-2", (0, 1, 2, 9)), ("2-3,3-4", (2, 3, 4))]
)
def test_token_numbers_are_parsed(text: str, positions: tuple[int, ...]) -> None:
    assert parse_positions(text, 10) == positions


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "3-", "5-3", "10", "0-10", "1,,2", "1-2-3", "9" * 30, "0-999999999", "٣"]
)
def test_token_numbers_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="token"):
        parse_positions(text, 10)


def test_the_default_answer_is_the_greedy_continuation(tmp_path: Path) -> None:
    a = ids_of(b"a")[0]
    loaded = llmcli.load(write_puppet(tmp_path, {**chain(b"xyz"), a: {ids_of(b"x")[0]: 1.0}, BOS: {END: 1.0}}))
    assert own_answer(loaded, [BOS, a], 5) == ids_of(b"xyz")
    told: list[tuple[int, int]] = []
    assert own_answer(loaded, [BOS, a], 2, lambda *report: told.append(report)) == ids_of(b"xy")
    assert told == [(1, 2), (2, 2)]
    with pytest.raises(UsageError, match="--answer"):
        own_answer(loaded, [BOS], 5)


def test_answers_are_encoded_as_continuations(loaded: llmcli.LoadedModel) -> None:
    assert answer_ids(loaded.tokenizer, "ab") == ids_of(b"ab")
    assert END not in answer_ids(loaded.tokenizer, "<|end|>")
    with pytest.raises(UsageError, match="empty"):
        answer_ids(loaded.tokenizer, "")


def test_texts_that_do_not_fit_are_refused(loaded: llmcli.LoadedModel) -> None:
    for prompt, error in (([], UsageError), (random_ids(125), PromptTooLongError)):
        with pytest.raises(error):
            without_span(loaded, prompt, ANSWER, [0])
        with pytest.raises(error):
            scan_words(loaded, prompt, ANSWER)


@pytest.mark.starter
def test_the_starter_needs_france_to_say_paris() -> None:
    loaded = llmcli.load(starter_path() or fetch_starter(), dtype="float32", device="cpu")
    ids = loaded.tokenizer.encode("The capital of France is")
    answer = answer_ids(loaded.tokenizer, " Paris")
    assert own_answer(loaded, ids, 1) == answer
    found = without_span(loaded, ids, answer, find_text(loaded.tokenizer, ids, "France"))
    assert found.answer[0].before > 0.7
    assert found.answer[0].hidden < 0.01 and (found.answer[0].removed or 1) < 0.01
    assert found.instead.before.text == " Paris" != found.instead.hidden.text
    words = scan_words(loaded, ids, answer).words
    assert {word.text for word in words[:2]} == {" capital", " France"}
