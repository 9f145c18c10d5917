from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import llmcli
from llmcli.errors import PromptTooLongError, UsageError
from llmcli.hub.starter import fetch_starter, starter_path
from llmcli.inspection.attention.head_scores import (
    HeadScores,
    Repeats,
    ablate_induction,
    head_atlas,
    random_repeats,
    text_repeats,
)
from llmcli.inspection.core.hooks import on_attention
from llmcli.model import Transformer
from tests.support.models.induction_model import write_induction_model
from tests.support.models.parity_cases import CASES
from tests.support.models.puppet import BOS
from tests.support.models.tiny import save, tiny_model
from tests.support.models.tiny_checkpoints import tiny_checkpoint


@pytest.fixture(scope="module")
def induction(tmp_path_factory: pytest.TempPathFactory) -> llmcli.LoadedModel:
    return llmcli.load(write_induction_model(tmp_path_factory.mktemp("induction")), dtype="float32", device="cpu")


def test_a_hand_built_induction_circuit_is_found(induction: llmcli.LoadedModel) -> None:
    atlas = head_atlas(induction, random_repeats(induction, length=15))
    assert (atlas.length, atlas.batch, atlas.bos, atlas.seed) == (15, 4, True, 0)
    heads = {(score.layer, score.head): score for score in atlas.heads}
    assert list(heads) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for name in ("previous", "previous_without_sink"):
        assert getattr(heads[0, 0], name) == pytest.approx(1, abs=1e-6)
    for name in ("induction", "induction_without_sink"):
        assert getattr(heads[1, 0], name) == pytest.approx(1, abs=1e-6)
    # Heads with uniform attention: 1 / (q + 1) over the queries q of the second half, and of all.
    second, everywhere = range(16, 31), range(1, 31)
    for place in ((0, 1), (1, 1)):
        alike = sum(1 / (q + 1) for q in second) / 15
        assert alike == pytest.approx(0.043101, abs=1e-6)
        assert (heads[place].duplicate, heads[place].induction) == pytest.approx((alike, alike), abs=1e-6)
        assert heads[place].sink == pytest.approx(sum(1 / (q + 1) for q in everywhere) / 30, abs=1e-6)
        # As a share of the attention not on the first position.
        other = sum(q / (q + 1) for q in second)
        assert heads[place].induction_without_sink == pytest.approx(15 * alike / other, abs=1e-6)


def test_the_induction_circuit_predicts_the_repeat(induction: llmcli.LoadedModel) -> None:
    for row in random_repeats(induction, length=20, batch=2).rows:
        logprobs = induction.logits(row).log_softmax(-1)[:-1].gather(1, torch.tensor(row[1:])[:, None])[:, 0]
        assert logprobs[21:].exp().tolist() == pytest.approx([1.0] * 19, abs=1e-5)
        assert float(logprobs[:20].exp().max()) < 2e-3


def test_ablating_the_induction_circuit_raises_the_loss(induction: llmcli.LoadedModel) -> None:
    repeats = random_repeats(induction, length=15)
    told: list[tuple[int, int]] = []
    atlas = head_atlas(induction, repeats)
    result = ablate_induction(
        induction, repeats, atlas.heads, 1, draws=8, progress=lambda done, total: told.append((done, total))
    )
    assert [(head.layer, head.head) for head in result.heads] == [(1, 0)]
    assert result.before == pytest.approx(0, abs=1e-4) and result.without > 4
    # Without the previous-token head the circuit fails too; without the idle heads it works.
    assert {loss > 3 for loss in result.random} == {True, False}
    assert min(result.random) == pytest.approx(0, abs=1e-4)
    assert result.random_mean == pytest.approx(sum(result.random) / 8)
    assert told == [(done, 10) for done in range(1, 11)]
    again = ablate_induction(induction, repeats, atlas.heads, 1, draws=8)
    assert again == result


@pytest.mark.parametrize("count", [0, 3])
def test_ablation_needs_the_same_number_of_other_heads(induction: llmcli.LoadedModel, count: int) -> None:
    repeats = random_repeats(induction, length=5)
    with pytest.raises(UsageError, match="from 1 to 2"):
        ablate_induction(induction, repeats, head_atlas(induction, repeats).heads, count)


def test_heads_with_short_windows_have_no_induction_score(induction: llmcli.LoadedModel) -> None:
    repeats = random_repeats(induction, length=5)
    heads = [replace(score, induction=None) for score in head_atlas(induction, repeats).heads]
    with pytest.raises(UsageError, match="cannot be switched off"):
        ablate_induction(induction, repeats, heads, 1)


FAMILIES = [
    "llama 2, grouped", "mistral, window shorter than the text", "gemma 2", "olmo 2", "phi-2", "gpt-2",
    "deepseek v3", "gpt-oss", "llama 4",
]  # fmt: skip


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, llmcli.LoadedModel]:
    model_type, overrides = CASES[request.param]
    model = tiny_model(model_type, **overrides)
    return model, llmcli.load(save(model, tmp_path), dtype="float32", device="cpu")


def expected(patterns: torch.Tensor, repeats: Repeats, model: Transformer, block: int, head: int) -> HeadScores:
    """By the definition, from whole patterns (B, H, T, T)."""
    layer, n, last = model.config.layers[block], repeats.length, patterns.shape[-1]

    def mean(queries: range, distance: int | None) -> tuple[float | None, float | None]:
        given, of = [], []
        for query in queries:
            key = 0 if distance is None else query - distance
            if key >= layer.first_visible(query) and (key > 0 or distance is None):
                for pattern in patterns[:, head]:
                    given.append(float(pattern[query, key]))
                    of.append(float(pattern[query, 1:].sum()))
        return (sum(given) / len(given), sum(given) / sum(of)) if given else (None, None)

    second = range(repeats.second, last)
    scores = {
        "previous": mean(range(1, last), 1),
        "duplicate": mean(second, n),
        "induction": mean(second, n - 1),
        "sink": mean(range(1, last), None),
    }
    return HeadScores(
        layer=block,
        head=head,
        **{kind: score[0] for kind, score in scores.items()},
        **{f"{kind}_without_sink": score[1] for kind, score in scores.items() if kind != "sink"},
        learned_sink=float(1 - patterns[:, head].sum(-1).mean()) if model.config.layers[block].sinks else None,
    )


@pytest.mark.parametrize("weights_at_once", [5000, 1 << 24])
def test_head_scores_equal_those_of_reference_patterns(
    pair: tuple[Any, llmcli.LoadedModel], weights_at_once: int
) -> None:
    model, loaded = pair
    repeats = random_repeats(loaded, length=9, batch=2)
    told: list[tuple[int, int]] = []
    atlas = head_atlas(loaded, repeats, lambda done, total: told.append((done, total)), weights_at_once=weights_at_once)
    with torch.inference_mode():
        patterns = model(torch.tensor(repeats.rows), output_attentions=True).attentions
    assert len(atlas.heads) == loaded.config.num_layers * loaded.config.num_heads
    for score in atlas.heads:
        wanted = expected(patterns[score.layer], repeats, loaded.model, score.layer, score.head)
        for name in vars(wanted):
            value = getattr(wanted, name)
            assert getattr(score, name) == (value if value is None else pytest.approx(value, abs=1e-5)), name
    assert told == [(block, loaded.config.num_layers) for block in range(1, loaded.config.num_layers + 1)]


def test_windows_hide_tokens_further_back(tmp_path: Path) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path, "mistral", sliding_window=7), dtype="float32")
    for score in head_atlas(loaded, random_repeats(loaded, length=9)).heads:
        assert (score.duplicate, score.induction, score.induction_without_sink) == (None, None, None)
        assert score.previous is not None and score.sink is not None
    # Now the window includes the token after the last occurrence, but not the occurrence.
    for score in head_atlas(loaded, random_repeats(loaded, length=7)).heads:
        assert score.duplicate is None and score.induction is not None


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> llmcli.LoadedModel:
    return llmcli.load(tiny_checkpoint(tmp_path_factory.mktemp("model"), "llama"), dtype="float32")


def test_random_texts_repeat_distinct_ordinary_tokens(loaded: llmcli.LoadedModel) -> None:
    repeats = random_repeats(loaded, length=50)
    assert len(repeats.rows) == 4 and len(set(repeats.rows)) == 4
    for row in repeats.rows:
        assert row[0] == BOS and row[1:51] == row[51:] and repeats.second == 51
        assert len(set(row[1:51])) == 50 and max(row[1:]) < 256
        # Byte tokens that are not whole characters are not ordinary.
        assert all(loaded.tokenizer.token_bytes(token).isascii() for token in row[1:])
    assert repeats == random_repeats(loaded, length=50)
    assert repeats.rows != random_repeats(loaded, length=50, seed=1).rows


@pytest.mark.parametrize(("context", "length"), [(128, 50), (64, 31), (7, 3)])
def test_random_texts_fit_the_context(tmp_path: Path, context: int, length: int) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path, "llama", max_position_embeddings=context))
    assert random_repeats(loaded).length == length


def test_a_context_without_room_is_refused(tmp_path: Path) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path, "llama", max_position_embeddings=6))
    with pytest.raises(UsageError, match="too small for a repeated text"):
        random_repeats(loaded)


def test_texts_are_repeated_after_one_bos(loaded: llmcli.LoadedModel) -> None:
    ids = loaded.tokenizer.encode("abc")
    plain = loaded.tokenizer.encode("abc", add_special_tokens=False)
    repeats = text_repeats(loaded, ids)
    assert ids == [BOS, *plain] and repeats.rows == ((BOS, *plain, *plain),)
    assert repeats == text_repeats(loaded, plain)
    assert (repeats.length, repeats.bos, repeats.seed, repeats.second) == (3, True, None, 4)
    with pytest.raises(UsageError, match="2 tokens"):
        text_repeats(loaded, ids[:3])
    with pytest.raises(PromptTooLongError, match="129 tokens"):
        text_repeats(loaded, plain * 21 + plain[:1])


def test_without_a_bos_position_0_counts_as_sink_alone(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, "llama")
    config = folder / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"bos_token"', '"pad_token"'))
    loaded = llmcli.load(folder, dtype="float32")
    repeats = text_repeats(loaded, [1, 2, 3, 4])
    assert repeats.rows == ((1, 2, 3, 4) * 2,) and (repeats.bos, repeats.second) == (False, 4)
    patterns: list[torch.Tensor] = []
    with on_attention(loaded.model, lambda call: patterns.append(call.weights())):
        loaded.logits(repeats.rows[0])
    for score in head_atlas(loaded, repeats).heads:
        wanted = expected(patterns[score.layer], repeats, loaded.model, score.layer, score.head)
        assert (score.previous, score.duplicate) == pytest.approx((wanted.previous, wanted.duplicate), abs=1e-5)


@pytest.mark.starter
def test_the_starter_repeats_by_its_induction_heads() -> None:
    loaded = llmcli.load(starter_path() or fetch_starter(), dtype="float32", device="cpu")
    repeats = random_repeats(loaded)
    atlas = head_atlas(loaded, repeats)

    def strongest(kind: str, count: int) -> set[tuple[int, int]]:
        best = sorted(atlas.heads, key=lambda score: -getattr(score, kind))[:count]
        return {(score.layer, score.head) for score in best}

    assert strongest("induction", 5) == {(18, 6), (17, 3), (17, 4), (17, 5), (18, 7)}
    assert strongest("previous", 2) == {(16, 0), (11, 1)}
    result = ablate_induction(loaded, repeats, atlas.heads, 5, draws=3)
    assert {(head.layer, head.head) for head in result.heads} == strongest("induction", 5)
    assert result.without - result.before > 3
    assert abs(result.random_mean - result.before) < 0.5
