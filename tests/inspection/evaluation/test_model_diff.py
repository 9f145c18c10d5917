from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from pathlib import Path

import pytest

import llmcli
from llmcli.errors import UsageError
from llmcli.inspection.evaluation.comparison_side import LocalComparison
from llmcli.inspection.evaluation.model_diff import Comparison, compare
from llmcli.model import Transformer
from tests.support.models.puppet import BOS, END, ids_of, write_puppet
from tests.support.models.tiny import byte_tokenizer, random_ids
from tests.support.models.tiny_checkpoints import tiny_checkpoint

A, B, C = ids_of(b"abc")


def puppet(folder: Path, transitions: Mapping[int, Mapping[int, float]]) -> llmcli.LoadedModel:
    return llmcli.load(write_puppet(folder, transitions), dtype="float32")


def test_compared_numbers_are_those_of_the_two_distributions(tmp_path: Path) -> None:
    first = puppet(tmp_path / "1", {BOS: {A: 1.0}, A: {B: 0.5, C: 0.5}, B: {A: 0.25, C: 0.75}})
    second = puppet(tmp_path / "2", {BOS: {A: 1.0}, A: {B: 0.9, C: 0.1}, B: {A: 0.6, C: 0.4}})
    prompted = LocalComparison(first, lambda loaded: loaded.tokenizer.encode("aba"))
    result = compare(lambda: prompted, lambda: LocalComparison(second), reply=False)
    assert [(token.text, token.kl is None) for token in result.tokens[1:]] == [("a", False), ("b", False), ("a", False)]
    assert result.tokens[0].kl is None
    expected = [
        0,
        0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1),
        0.25 * math.log(0.25 / 0.6) + 0.75 * math.log(0.75 / 0.4),
    ]
    assert [token.kl for token in result.tokens[1:]] == pytest.approx(expected, abs=1e-3)
    assert result.compared == 3
    assert result.mean_kl == pytest.approx(sum(expected) / 3, abs=1e-3)
    assert result.largest_kl == pytest.approx(max(expected), abs=1e-3)
    assert result.agreement == pytest.approx(2 / 3)
    assert result.perplexities == pytest.approx(((0.5 * 0.25) ** (-1 / 3), (0.9 * 0.6) ** (-1 / 3)), rel=1e-2)
    last = result.tokens[-1]
    assert last.first is not None and last.second is not None
    assert (last.first.choice.text, last.second.choice.text) == ("c", "a")
    assert (math.exp(last.first.logprob), math.exp(last.second.logprob)) == pytest.approx((0.25, 0.6), rel=1e-2)


def test_the_first_difference_of_the_continuations(tmp_path: Path) -> None:
    first = puppet(tmp_path / "1", {A: {B: 1.0}, B: {C: 0.8, A: 0.2}})
    second = puppet(tmp_path / "2", {A: {B: 1.0}, B: {A: 0.6, C: 0.3, END: 0.1}})
    third = puppet(tmp_path / "3", {A: {B: 1.0}, B: {END: 0.9, C: 0.1}})

    def compared(one: llmcli.LoadedModel, other: llmcli.LoadedModel) -> Comparison:
        return compare(
            lambda: LocalComparison(one, lambda _: [BOS, A]), lambda: LocalComparison(other), reply=False, max_tokens=5
        )

    result = compared(first, second)
    assert [said.text for said in result.continuations] == ["bc", "babab"]
    assert [said.ended for said in result.continuations] == [True, False]
    parting = result.parting
    assert parting is not None and parting.first is not None and parting.second is not None
    assert (parting.index, parting.first.text, parting.second.text) == (1, "c", "a")
    assert parting.first_gap == pytest.approx(math.log(4), abs=0.01)
    assert parting.second_gap == pytest.approx(math.log(2), abs=0.01)
    ended = compared(first, third).parting
    assert ended is not None and (ended.index, ended.second, ended.second_gap) == (1, None, None)
    assert compared(first, first).parting is None


def test_a_model_agrees_with_itself_also_in_windows(tmp_path: Path) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path, "llama"), dtype="float32")
    told: list[tuple[str, int, int]] = []
    result = compare(
        lambda: LocalComparison(loaded, lambda _: random_ids(300)),
        lambda: LocalComparison(loaded),
        reply=False,
        max_tokens=4,
        names=("x", "y"),
        progress=lambda *progress: told.append(progress),
    )
    assert (result.mean_kl, result.largest_kl, result.agreement, result.parting) == (0, 0, 1, None)
    assert result.paths[0].startswith("cpu kernel") and result.paths[0] == result.paths[1]
    assert (result.models, result.compared) == (("x", "y"), 299)
    models = ("The first model", "The second model")
    assert [*dict.fromkeys(what for what, _, _ in told)] == [
        f"{model} {does}" for model in models for does in ("writes", "reads")
    ]
    assert told[0] == ("The first model writes", 0, 4) and told[-1] == ("The second model reads", 300, 300)


def test_a_reply_is_compared_without_its_prompt(tmp_path: Path) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path, "llama"), dtype="float32")
    prompted = LocalComparison(loaded, lambda _: random_ids(9))
    result = compare(lambda: prompted, lambda: LocalComparison(loaded), reply=True, max_tokens=6)
    assert [token.kl is None for token in result.tokens] == [True] * 9 + [False] * 6
    assert [token.id for token in result.tokens[9:]] == [token.id for token in result.continuations[0].tokens]


def test_the_first_model_is_released_before_the_second_is_loaded(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, "llama")
    models: list[weakref.ref[Transformer]] = []

    def load() -> LocalComparison:
        assert not any(model() is not None for model in models)
        loaded = llmcli.load(folder)
        models.append(weakref.ref(loaded.model))
        return LocalComparison(loaded, lambda _: random_ids(9))

    compare(load, load, reply=False, max_tokens=3)
    assert len(models) == 2


def test_models_of_different_tokenizers_are_refused(tmp_path: Path) -> None:
    first = tiny_checkpoint(tmp_path / "1", "llama")
    second = tiny_checkpoint(tmp_path / "2", "llama", vocab_size=270)
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["more"])
    tokenizer.save(str(second / "tokenizer.json"))
    third = tiny_checkpoint(tmp_path / "3", "llama")
    (third / "tokenizer.json").write_text((third / "tokenizer.json").read_text().replace("<|user|>", "<|human|>"))
    prompted = LocalComparison(llmcli.load(first), lambda _: random_ids(9))
    for other, why in ((second, "one has 261 tokens and the other 262"), (third, r"token 258 is '<\|user\|>' in one")):
        with pytest.raises(UsageError, match=why):
            compare(lambda: prompted, lambda: LocalComparison(llmcli.load(other)), reply=False)  # noqa: B023


def test_an_empty_comparison_is_refused(tmp_path: Path) -> None:
    silent = puppet(tmp_path, {})
    for reply in (False, True):
        with pytest.raises(UsageError, match="nothing to compare"):
            compare(lambda: LocalComparison(silent, lambda _: [A]), lambda: LocalComparison(silent), reply=reply)
