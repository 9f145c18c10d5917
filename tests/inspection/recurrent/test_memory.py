"""What recurrent layers remember, compared with their own rules token by token, and what reaches an answer."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import llmcli
from llmcli.errors import UsageError
from llmcli.inspection.core.ablation import without_keys, without_states, without_tokens
from llmcli.inspection.core.recurrences import RecurrenceCall, on_recurrence
from llmcli.inspection.recurrent.memory import half_lives, memories
from llmcli.inspection.recurrent.routes import routes
from llmcli.model import LayerConfig
from llmcli.model.mixer_config import MixerConfig
from tests.support.mixed_blocks import CONV, DELTA, KIMI, MAMBA, MAMBA2, attention, hybrid_model
from tests.support.models.tiny import random_ids

IDS = random_ids(90)
KINDS: dict[str, tuple[MixerConfig, str, int]] = {
    "gated delta net": (DELTA, "head", 4),
    "Kimi delta attention": (KIMI, "key channel", 12),
    "Mamba-2": (MAMBA2, "head", 4),
    "Mamba": (MAMBA, "state value", 120),
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> llmcli.LoadedModel:
    recurrent = [LayerConfig(None, mixer=kind) for kind, _, _ in KINDS.values()]
    conv = LayerConfig(None, window=3, mixer=CONV)
    beside = LayerConfig(attention().rope, beside=MAMBA2)
    return hybrid_model(tmp_path_factory.mktemp("hybrid"), *recurrent, conv, attention(), beside)


def test_each_kind_of_block_is_described(loaded: llmcli.LoadedModel) -> None:
    found = memories(loaded, IDS, 50)
    assert [block.block for block in found.blocks] == [0, 1, 2, 3, 6]
    for block, (kind, (_, unit, count)) in zip(found.blocks, KINDS.items(), strict=False):
        assert (block.kind, block.half_lives.unit, block.half_lives.count) == (kind, unit, count)
        assert len(block.heads) == (count if unit == "head" else 0)
        assert 0 < block.written <= 2
        assert block.added > 0
    assert [(window.block, window.width) for window in found.windows] == [(4, 3)]
    assert found.attention_blocks == (5, 6)


def test_a_memory_fades_by_half_in_its_half_life(loaded: llmcli.LoadedModel) -> None:
    calls: list[RecurrenceCall] = []
    with on_recurrence(loaded.model, calls.append):
        loaded.model(torch.tensor([IDS]))
    lives = memories(loaded, IDS, 3).blocks[0].heads
    rates = calls[0].log_decay()[0]  # (T, heads)
    for head, life in enumerate(lives):
        assert life is not None
        assert float((rates[:, head].mean() * life).exp()) == pytest.approx(0.5, rel=1e-4)
    assert half_lives(torch.tensor([-math.log(2), 0.0])).tolist() == [pytest.approx(1.0), math.inf]


@pytest.mark.parametrize("block", range(4))
def test_what_a_token_wrote_is_the_memory_less_what_was_left_of_it(loaded: llmcli.LoadedModel, block: int) -> None:
    calls: list[RecurrenceCall] = []
    with on_recurrence(loaded.model, calls.append):
        loaded.model(torch.tensor([IDS]))
    call = calls[block]
    before, after = call.memory_after(50), call.memory_after(51)
    assert before is not None and after is not None
    decay = call.log_decay()[0, 50].exp()
    faded = (before[0].flatten() * decay.repeat_interleave(before[0].numel() // len(decay))).view_as(before[0])
    expected = (after[0] - faded).norm() / after.norm()
    assert memories(loaded, IDS, 50).blocks[block].written == pytest.approx(float(expected), rel=1e-3)


def test_hidden_tokens_do_not_matter(loaded: llmcli.LoadedModel) -> None:
    """Neither attention nor states tell two texts apart that differ in the hidden tokens only."""
    other = [*IDS]
    other[30:40] = random_ids(10, seed=5)
    hidden = range(30, 40)

    def last(ids: list[int]) -> torch.Tensor:
        return loaded.logits(ids)[-1]

    for way in (without_keys, without_states):
        with way(loaded.model, hidden):
            assert not torch.allclose(last(IDS), last(other), atol=1e-4)
    with without_tokens(loaded.model, hidden):
        assert torch.allclose(last(IDS), last(other), atol=2e-5)
    assert not torch.allclose(last(IDS), last(other), atol=1e-4)


def test_routes_are_the_ways_to_hide_a_part(loaded: llmcli.LoadedModel) -> None:
    answer, hidden = random_ids(3, seed=9), range(30, 40)
    found = routes(loaded, IDS, answer, hidden)

    def total() -> float:
        rows = loaded.model(torch.tensor([[*IDS, *answer]]))[0, len(IDS) - 1 : -1]
        logprobs = rows[:, : loaded.tokenizer.vocab_size].log_softmax(-1)
        return float(logprobs.gather(1, torch.tensor(answer)[:, None]).sum())

    assert found.before == pytest.approx(total(), abs=1e-3)
    with without_keys(loaded.model, hidden):
        assert found.without_attention == pytest.approx(total(), abs=1e-3)
    with without_states(loaded.model, hidden):
        assert found.without_states == pytest.approx(total(), abs=1e-3)
    with without_tokens(loaded.model, hidden):
        assert found.without_both == pytest.approx(total(), abs=1e-3)
    assert len({found.before, found.without_attention, found.without_states, found.without_both}) == 4


def test_models_without_states_are_refused(tmp_path: Path) -> None:
    loaded = hybrid_model(tmp_path, attention(), attention())
    with pytest.raises(UsageError, match="attention only"):
        memories(loaded, IDS, 3)
    with pytest.raises(UsageError, match="attention only"):
        routes(loaded, IDS, [1], [3])


@pytest.mark.parametrize("position", [-1, 90])
def test_there_must_be_such_a_token(loaded: llmcli.LoadedModel, position: int) -> None:
    with pytest.raises(UsageError, match=f"no token {position}"):
        memories(loaded, IDS, position)
