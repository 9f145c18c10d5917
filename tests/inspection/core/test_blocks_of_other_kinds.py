"""Inspection of models with blocks that have no attention, or no feed-forward network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import llmcli
from llmcli.errors import UnsupportedModelError, UsageError
from llmcli.inspection.attention.head_scores import head_atlas, text_repeats
from llmcli.inspection.attention.pattern import attention_pattern
from llmcli.inspection.attention.summary import summary
from llmcli.inspection.causal.causal_trace import causal_trace
from llmcli.inspection.causal.prompt_ablation import scan_words, without_span
from llmcli.inspection.feed_forward.neurons import neuron_along
from llmcli.inspection.residual.logit_lens import lens
from llmcli.inspection.token_card import inspect_token
from llmcli.model import LayerConfig
from tests.support.mixed_blocks import DELTA, MAMBA, MAMBA2, attention, hybrid_model
from tests.support.models.tiny import random_ids

IDS = random_ids(20)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> llmcli.LoadedModel:
    return hybrid_model(
        tmp_path_factory.mktemp("hybrid"),
        LayerConfig(None, mixer=DELTA),
        LayerConfig(None, mixer=MAMBA2, parts="mixer"),
        attention(),
        LayerConfig(None, parts="feed_forward"),
        LayerConfig(attention().rope, beside=MAMBA2),
    )


@pytest.fixture(scope="module")
def without_attention(tmp_path_factory: pytest.TempPathFactory) -> llmcli.LoadedModel:
    return hybrid_model(tmp_path_factory.mktemp("mamba"), *[LayerConfig(None, mixer=MAMBA, parts="mixer")] * 2)


def test_a_logit_is_the_sum_of_all_parts(loaded: llmcli.LoadedModel) -> None:
    card = inspect_token(loaded, IDS, 15, verify=True)
    assert abs(card.attribution.rounding) < 1e-3
    assert {head.block for head in card.attribution.heads} <= {2, 4}
    assert card.attribution.recurrent == (0, 1, 4)
    assert [block.feed_forward == 0 for block in card.attribution.blocks] == [False, True, False, False, False]
    assert [block.attention == 0 for block in card.attribution.blocks] == [False, False, False, True, False]
    assert card.read is not None
    assert card.verify is not None


def test_a_model_without_attention_has_cards_and_a_lens(without_attention: llmcli.LoadedModel) -> None:
    card = inspect_token(without_attention, IDS, 15, verify=True)
    assert card.read is None
    assert abs(card.attribution.rounding) < 1e-3
    assert len(lens(without_attention, IDS, [3, 7]).lens) == 2
    with pytest.raises(UsageError, match="no attention: its blocks remember the text by Mamba"):
        summary(without_attention, IDS, [5])
    with pytest.raises(UsageError, match="no attention"):
        head_atlas(without_attention, text_repeats(without_attention, IDS))


def test_attention_of_the_blocks_that_have_it(loaded: llmcli.LoadedModel) -> None:
    found = summary(loaded, IDS, [5])
    assert [reading.block for reading in found.blocks] == [2, 4]
    assert {score.layer for score in head_atlas(loaded, text_repeats(loaded, IDS)).heads} == {2, 4}
    for block, what in ((0, "gated delta net"), (1, "Mamba-2"), (3, "only a feed-forward network")):
        with pytest.raises(UsageError, match=f"Block {block} has no attention: {what}"):
            attention_pattern(loaded, IDS, block, 0, [3])
        with pytest.raises(UsageError, match=f"Block {block} has no attention"):
            summary(loaded, IDS, [5], only=[block])


def test_neurons_of_a_block_without_any_are_refused(loaded: llmcli.LoadedModel) -> None:
    with pytest.raises(UsageError, match="Block 1 has no feed-forward network"):
        neuron_along(loaded, IDS, 1, 0)
    assert len(neuron_along(loaded, IDS, 3, 0).activations) == len(IDS)


def test_words_are_hidden_from_states_too(loaded: llmcli.LoadedModel) -> None:
    answer = random_ids(2, seed=4)
    other = [*IDS[:5], *random_ids(3, seed=8), *IDS[8:]]
    hidden = [without_span(loaded, ids, answer, [5, 6, 7]).total.hidden for ids in (IDS, other)]
    assert hidden[0] == pytest.approx(hidden[1], abs=1e-3)
    assert scan_words(loaded, IDS, answer).words


def test_a_trace_through_states_is_refused(loaded: llmcli.LoadedModel) -> None:
    with pytest.raises(UnsupportedModelError, match="recurrent layers"):
        causal_trace(loaded, IDS, [2])
    assert torch.isfinite(loaded.logits(IDS)).all()


def test_there_is_no_such_pattern(without_attention: llmcli.LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Block 0 has no attention: Mamba is in its place"):
        attention_pattern(without_attention, IDS, 0, 0, [3])
