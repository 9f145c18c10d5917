"""The patterns of all heads are those of each head, and their value lengths those that attention rows are ranked by."""

from __future__ import annotations

from pathlib import Path

import pytest

import llmcli
from llmcli.errors import UsageError
from llmcli.inspection.attention.all_heads import MOST_WEIGHTS, head_patterns
from llmcli.inspection.attention.pattern import attention_pattern
from llmcli.inspection.attention.summary import read_at
from tests.support.models.parity_cases import CASES
from tests.support.models.recurrent_cases import RECURRENT
from tests.support.models.tiny import random_ids
from tests.support.models.tiny_checkpoints import tiny_checkpoint

IDS = random_ids(20)
FAMILIES = ["llama 2, grouped", "mistral, window", "gemma 3", "deepseek v3", "gpt-oss"]


@pytest.fixture(params=FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> llmcli.LoadedModel:
    model_type, overrides = next(value for key, value in CASES.items() if key.startswith(request.param))
    return llmcli.load(tiny_checkpoint(tmp_path, model_type, **overrides), dtype="float32", device="cpu")


def test_patterns_are_those_of_each_head(loaded: llmcli.LoadedModel) -> None:
    found = head_patterns(loaded, IDS)
    assert [token.id for token in found.tokens] == list(IDS)
    assert len(found.heads) > 4
    for one in found.heads:
        alone = attention_pattern(loaded, IDS, one.layer, one.head, range(len(IDS)))
        for position, row in enumerate(one.pattern):
            assert row == pytest.approx(alone.pattern[position][: position + 1], abs=6e-5)
            assert len(row) == position + 1


def test_weights_times_value_lengths_rank_as_attention_rows_do(loaded: llmcli.LoadedModel) -> None:
    position = len(IDS) - 1
    for one in head_patterns(loaded, IDS, only=[1]).heads:
        assert max(one.value_lengths) == 1
        moved = [weight * length for weight, length in zip(one.pattern[position], one.value_lengths, strict=True)]
        rest = sum(moved[1:position])
        (reading,) = read_at(loaded, IDS, [position], top=30, only=[1], head=one.head)
        for read in reading.row.read:
            assert moved[read.position] / rest == pytest.approx(read.weight, abs=2e-3)


def test_too_many_weights_and_missing_blocks_are_refused(tmp_path: Path) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path / "m", "llama", max_position_embeddings=2000))
    with pytest.raises(UsageError, match=f"more than {MOST_WEIGHTS:,} weights"):
        head_patterns(loaded, random_ids(900))
    with pytest.raises(UsageError, match="no block 9"):
        head_patterns(loaded, IDS, only=[9])
    with pytest.raises(UsageError, match="empty"):
        head_patterns(loaded, [])


def test_blocks_without_attention_are_left_out(tmp_path: Path) -> None:
    model_type, changes = RECURRENT["bamba"]
    loaded = llmcli.load(tiny_checkpoint(tmp_path, model_type, **changes), dtype="float32")
    attends = [block for block, layer in enumerate(loaded.config.layers) if layer.attends]
    assert sorted({one.layer for one in head_patterns(loaded, IDS).heads}) == attends
