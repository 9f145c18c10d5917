from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmcli
from llmcli.errors import LlmcliError, PromptTooLongError, UsageError
from llmcli.inspection.evaluation.multiple_choice import choose
from tests.support.models.tiny import random_ids, save, tiny_model

END = 257


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, llmcli.LoadedModel]:
    """A model that caches everything, and one with windowed layers."""
    made = {
        "llama": tiny_model("llama", max_position_embeddings=512),
        "mistral": tiny_model("mistral", max_position_embeddings=512, sliding_window=8),
    }
    return {
        name: llmcli.load(save(model, tmp_path_factory.mktemp(name)), dtype="float32") for name, model in made.items()
    }


def slowly(loaded: llmcli.LoadedModel, prompt: Sequence[int], answer: Sequence[int], *, whole: bool) -> float:
    """The log-probability of an answer, from one pass over all of it."""
    wanted = [*answer, *([END] if whole else [])]
    logprobs = loaded.logits([*prompt, *answer]).log_softmax(-1)[len(prompt) - 1 :]
    return sum(float(logprobs[place][token]) for place, token in enumerate(wanted))


@settings(max_examples=25)
@given(
    answers=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=2, max_size=6, unique_by=tuple),
    whole=st.booleans(),
    family=st.sampled_from(["llama", "mistral"]),
)
def test_shared_prefixes_change_only_the_cost(
    models: dict[str, llmcli.LoadedModel], answers: list[list[int]], whole: bool, family: str
) -> None:
    # Few different tokens, so that answers share beginnings in every way.
    loaded, prompt = models[family], random_ids(20)
    if not whole:
        answers = [ids for ids in answers if not any(ids != other and other == ids[: len(other)] for other in answers)]
    if len(answers) < 2:
        return
    given_ids = {str(ids): [*prompt, *ids] for ids in answers}
    result = choose(loaded, prompt, given_ids, whole=whole)
    expected = {str(ids): slowly(loaded, prompt, ids, whole=whole) for ids in answers}
    assert {choice.text: choice.logprob for choice in result.choices} == pytest.approx(expected, abs=1e-4)
    assert sum(choice.prob for choice in result.choices) == pytest.approx(1)
    assert [choice.prob for choice in result.choices] == sorted(
        (choice.prob for choice in result.choices), reverse=True
    )
    total = sum(map(math.exp, expected.values()))
    assert result.covered == pytest.approx(total, rel=1e-3)
    for choice in result.choices:
        assert choice.prob == pytest.approx(math.exp(expected[choice.text]) / total, rel=1e-3)
    # Every node of the tree is read once; leaves only if their end counts.
    nodes = {tuple(ids[:length]) for ids in answers for length in range(1, len(ids) + whole)}
    assert result.read_tokens == len(prompt) + len(nodes)


def test_a_windowed_layer_reads_again_what_it_lost(models: dict[str, llmcli.LoadedModel]) -> None:
    loaded, prompt, stem = models["mistral"], random_ids(30), random_ids(390)
    # The second answer needs a larger cache, at which point a windowed layer drops the prompt.
    answers = [[1, *stem, 5], [1, *stem, *random_ids(60, seed=2)], [2, 3]]
    result = choose(loaded, prompt, {str(n): [*prompt, *ids] for n, ids in enumerate(answers)}, whole=True)
    for choice in result.choices:
        assert choice.logprob == pytest.approx(slowly(loaded, prompt, answers[int(choice.text)], whole=True), rel=1e-4)
    assert result.read_tokens == 2 * len(prompt) + 391 + 1 + 60 + 2


def test_all_one_token_answers_sum_to_one(models: dict[str, llmcli.LoadedModel]) -> None:
    loaded, prompt = models["llama"], random_ids(7)
    answers = {str(token): [*prompt, token] for token in range(loaded.tokenizer.vocab_size)}
    assert choose(loaded, prompt, answers, whole=False).covered == pytest.approx(1, abs=1e-4)


def test_a_token_across_prompt_and_answer_is_scored_as_a_whole(models: dict[str, llmcli.LoadedModel]) -> None:
    # As if "ab" were one token: the prompt's last token differs in that answer.
    loaded, prompt = models["llama"], random_ids(9)
    answers = {"one": [*prompt, 5], "two": [*prompt[:-1], 250, 6]}
    result = {choice.text: choice for choice in choose(loaded, prompt, answers, whole=False).choices}
    assert [token.id for token in result["one"].tokens] == [prompt[-1], 5]
    for text, ids in answers.items():
        assert result[text].logprob == pytest.approx(slowly(loaded, prompt[:-1], ids[8:], whole=False), abs=1e-4)


def test_progress_counts_the_prompt(models: dict[str, llmcli.LoadedModel]) -> None:
    prompt, seen = random_ids(40), []
    choose(
        models["llama"],
        prompt,
        {"a": [*prompt, 1], "b": [*prompt, 2]},
        whole=True,
        progress=lambda *told: seen.append(told),
    )
    assert seen == [(0, 40), (40, 40)]


def test_answers_that_cannot_be_compared_are_refused(models: dict[str, llmcli.LoadedModel], tmp_path: Path) -> None:
    loaded, prompt = models["llama"], random_ids(5)

    def refused(answers: dict[str, list[int]], why: str, *, whole: bool = False, limit: int | None = None) -> None:
        with pytest.raises(LlmcliError, match=why):
            choose(loaded, prompt, answers, whole=whole, context_length=limit)

    one, two = [*prompt, 1], [*prompt, 1, 2]
    refused({"a": one}, "at least two")
    refused({"a": one, "b": list(prompt)}, "'b' adds nothing")
    refused({"a": one, "b": list(one)}, "have the same tokens")
    refused({"a": one, "b": two}, "'b' begins with the answer 'a'")
    choose(loaded, prompt, {"a": one, "b": two}, whole=True)
    with pytest.raises(UsageError, match="no token before the answers"):
        choose(loaded, [], {"a": [1], "b": [2]}, whole=True)
    with pytest.raises(PromptTooLongError, match="8 tokens"):
        choose(loaded, prompt, {"a": one, "b": two}, whole=True, context_length=7)
    choose(loaded, prompt, {"a": one, "b": two}, whole=True, context_length=8)
    weights = loaded.model.lm_head.weight
    saved = weights.clone()
    weights.fill_(math.nan)
    try:
        refused({"a": one, "b": [*prompt, 2]}, "a number")
    finally:
        weights.copy_(saved)
