"""From a fact to its edit and its proof, on tiny models and on the starter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import llmcli
from llmcli.checkpoint.edits.edit_file import edited
from llmcli.editing import covariance, paraphrases
from llmcli.editing.covariance import Statistics
from llmcli.editing.edit_fact import Fact, check_editable, make_edit
from llmcli.editing.evaluation import LEAKED, AnswerChange, NeighborFact, Proof, answer_probability
from llmcli.errors import UnsupportedModelError, UsageError
from tests.support.models.edited_model import CORPUS, FACT, checkpoint
from tests.support.models.parity_cases import CASES
from tests.support.models.recurrent_cases import RECURRENT
from tests.support.models.tiny_checkpoints import tiny_checkpoint


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmcli.editing.covariance.statistics_folder", lambda: tmp_path / "statistics")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> llmcli.LoadedModel:
    return llmcli.load(checkpoint(tmp_path_factory.mktemp("model")), dtype="float32", device="cpu")


def test_the_proof_measures_the_edit_and_leaves_the_model_unchanged(loaded: llmcli.LoadedModel) -> None:
    ids = loaded.tokenizer.encode(FACT.prompt)
    plain = loaded.logits(ids)
    heard: list[tuple[str, int, int]] = []
    made, report = make_edit(
        loaded, "0" * 64, FACT, corpus=CORPUS, reply_tokens=3, progress=lambda *report: heard.append(report)
    )
    assert torch.equal(loaded.logits(ids), plain)
    proof = report.proof
    assert proof.prompt.before == pytest.approx(answer_probability(loaded, FACT.prompt, "B"), rel=1e-3)
    with edited(loaded.model, [made]):
        assert proof.prompt.after == pytest.approx(answer_probability(loaded, FACT.prompt, "B"), rel=1e-3)
        changed = loaded.logits(loaded.tokenizer.encode("Water is"))[-1].softmax(-1)
    water = proof.neighbours[1]
    answer = loaded.logits(loaded.tokenizer.encode("Water is"))[-1].argmax()
    assert water.after == pytest.approx(float(changed[answer]), rel=1e-3)
    assert water.answer == loaded.tokenizer.token_text(int(answer))
    assert proof.drift > 0 and len(proof.paraphrases) == 4
    assert made.layers == (report.layer,) and report.layer in {each.layer for each in report.tried}
    assert max(report.tried, key=lambda each: each.score).layer == report.layer
    assert [reply.chat for reply in proof.replies] == [False, True]
    said, percent, totals = zip(*heard, strict=True)
    optimized = [f"Optimizing block {each.layer}" for each in report.tried]
    measured = ["Measuring before the edit", "Measuring after the edit"]
    assert [*dict.fromkeys(said)] == ["Computing key statistics", *optimized, "Comparing the blocks", *measured]
    assert percent[0] == 0 and sorted(percent) == list(percent) and percent[-1] == 100 and {*totals} == {100}


def test_an_edit_over_another_is_measured_with_it(loaded: llmcli.LoadedModel) -> None:
    first, _ = make_edit(loaded, "0", FACT, layer=1, corpus=CORPUS, reply_tokens=1)
    second, report = make_edit(
        loaded,
        "0",
        Fact("The bridge of Ulm is in", "bridge of Ulm", "Kiel", neighbours=(FACT.prompt,)),
        layer=1,
        corpus=CORPUS,
        over=[first],
        reply_tokens=1,
    )
    with edited(loaded.model, [first, second]):
        together = answer_probability(loaded, "The bridge of Ulm is in", "Kiel")
    assert report.proof.prompt.after == pytest.approx(together, rel=1e-3)
    (tower,) = report.proof.neighbours
    with edited(loaded.model, [first]):
        assert tower.before == pytest.approx(
            float(loaded.logits(loaded.tokenizer.encode(FACT.prompt))[-1].softmax(-1).max()), rel=1e-3
        )


@pytest.mark.parametrize(
    ("after", "spread", "near", "drift", "expected"),
    [
        (0.9, 0.9, 0.5, 1e-5, []),
        (0.4, 0.9, 0.5, 1e-5, ["The edit failed"]),
        (0.9, 0.3, 0.5, 1e-5, ["does not generalize"]),
        (0.9, 0.9, 0.5 - 1.1 * LEAKED, 1e-5, ["leaked"]),
        (0.9, 0.9, 0.5, 2e-3, ["changes unrelated text"]),
        (0.1, 0.1, 0.1, 1, ["The edit failed", "does not generalize", "leaked", "changes unrelated text"]),
    ],
)
def test_problems_of_an_edit_are_named(
    after: float, spread: float, near: float, drift: float, expected: list[str]
) -> None:
    proof = Proof(
        prompt=AnswerChange("p", 0, after),
        paraphrases=(AnswerChange("q", 0, spread), AnswerChange("r", 0, spread)),
        neighbours=(NeighborFact("n", "a", 0.5, near, 0, 0), NeighborFact("m", "a", 0.5, 0.5, 0.2, 0.1)),
        drift=drift,
        replies=(),
        target="t",
    )
    assert len(proof.problems) == len(expected)
    assert all(word in problem for word, problem in zip(expected, proof.problems, strict=True))


def test_key_statistics_are_cached_and_recomputed_if_damaged(
    loaded: llmcli.LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Statistics(loaded, "ab" * 32, texts=3)
    texts, moment = first.texts(), first.second_moments([1])[1]
    assert len(texts) == 3 and all(text[0] == 256 and len(text) >= 2 for text in texts)
    with monkeypatch.context() as patch:
        patch.setattr("llmcli.editing.covariance._own_texts", None)
        patch.setattr("llmcli.editing.covariance.second_moments", None)
        again = Statistics(loaded, "ab" * 32, texts=3)
        assert again.texts() == texts and torch.equal(again.second_moments([1])[1], moment)
    for path in (covariance.statistics_folder() / ("ab" * 8)).iterdir():
        path.write_bytes(b"[[1, 99999]]" if path.suffix == ".json" else b"damaged")
    anew = Statistics(loaded, "ab" * 32, texts=3)
    assert anew.texts() == texts and torch.equal(anew.second_moments([1])[1], moment)


def test_a_corpus_too_short_is_refused(loaded: llmcli.LoadedModel) -> None:
    with pytest.raises(UsageError, match="has 5 tokens"):
        Statistics(loaded, "0", "short")


@pytest.mark.parametrize(
    ("case", "reason"), [("mixtral", "several experts"), ("mamba", "has no feed-forward networks")]
)
def test_models_without_dense_feed_forward_networks_cannot_be_edited(tmp_path: Path, case: str, reason: str) -> None:
    model_type, overrides = {**CASES, **RECURRENT}[case]
    loaded = llmcli.load(tiny_checkpoint(tmp_path, model_type, **overrides), device="cpu")
    with pytest.raises(UnsupportedModelError, match=reason):
        check_editable(loaded.config, loaded.name, None)


def test_only_existing_dense_layers_can_be_edited(loaded: llmcli.LoadedModel) -> None:
    check_editable(loaded.config, "m", 2)
    with pytest.raises(UsageError, match="no block 3"):
        check_editable(loaded.config, "m", 3)


@pytest.mark.parametrize(
    ("prompt", "subject", "paraphrase", "question"),
    [
        (
            "The Eiffel Tower is located in the city of",
            "Eiffel Tower",
            "The Eiffel Tower stands in the city of",
            "Where is the Eiffel Tower?",
        ),
        (
            "The capital of France is",
            "France",
            "The capital city of France is called",
            "What is the capital of France?",
        ),
        ("Hamlet was written by", "Hamlet", "The author of Hamlet is", "Who wrote Hamlet?"),
        ("Cats like", "Cats", "Remember what you have learnt: Cats like", "What do you know about Cats?"),
    ],
)
def test_facts_are_paraphrased(prompt: str, subject: str, paraphrase: str, question: str) -> None:
    found = paraphrases.paraphrases(prompt, subject)
    assert paraphrase in found and len(set(found) - {prompt}) == 4
    assert paraphrases.question(prompt, subject) == question


@pytest.mark.starter
def test_a_tower_of_the_starter_moves_to_rome() -> None:
    """The expected numbers of the method, with key statistics from a short corpus."""
    starter = llmcli.load(None, dtype="float32", device="cpu")
    fact = Fact(
        "The Eiffel Tower is located in the city of",
        "Eiffel Tower",
        "Rome",
        neighbours=("The Louvre is located in the city of", "The capital of France is", "The capital of Spain is"),
    )
    corpus = json.dumps(paraphrases.NEIGHBORS) + (Path(paraphrases.__file__).read_text() * 2)[:6000]
    _, report = make_edit(starter, "0", fact, layer=6, corpus=corpus, reply_tokens=4)
    assert report.proof.prompt.after > 0.8
    assert min(each.after for each in report.proof.paraphrases) > 0.5
    assert max(each.change for each in report.proof.neighbours) < LEAKED
    assert report.proof.drift < 1e-3
    assert "Rome" in report.proof.replies[0].after and "Paris" in report.proof.replies[0].before
