"""Views of RWKV-4 and xLSTM, whose memories are kept divided by the exponential of a number beside them."""

from __future__ import annotations

import math

import pytest
import torch

import llmcli
from llmcli.editing.edit_fact import check_editable
from llmcli.errors import UnsupportedModelError, UsageError
from llmcli.inspection.core.ablation import without_neurons, without_states
from llmcli.inspection.core.activations import trace
from llmcli.inspection.core.hooks import blocks, check_attends
from llmcli.inspection.core.recurrences import RecurrenceCall, on_recurrence
from llmcli.inspection.recurrent.memory import memories
from llmcli.inspection.residual.logit_attribution import Direction, attribution
from llmcli.model.recurrent.rwkv4 import ChannelMixing, TimeMixing
from tests.support.models.recurrent_cases import RECURRENT
from tests.support.models.tiny import random_ids
from tests.support.models.tiny_checkpoints import tiny_checkpoint

IDS = random_ids(90)
RWKV, XLSTM = "rwkv 4", "xlstm"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, llmcli.LoadedModel]:
    found = {}
    for case in (RWKV, XLSTM):
        model_type, overrides = RECURRENT[case]
        folder = tiny_checkpoint(tmp_path_factory.mktemp("model"), model_type, **overrides)
        found[case] = llmcli.load(folder, dtype="float32", device="cpu")
    return found


@pytest.mark.parametrize(
    ("case", "kind", "unit", "count"), [(RWKV, "RWKV-4 time mixing", "channel", 32), (XLSTM, "mLSTM", "head", 4)]
)
def test_each_block_is_described(
    models: dict[str, llmcli.LoadedModel], case: str, kind: str, unit: str, count: int
) -> None:
    found = memories(models[case], IDS, 50)
    assert [block.block for block in found.blocks] == [0, 1, 2] and not found.attention_blocks
    for block in found.blocks:
        assert (block.kind, block.half_lives.unit, block.half_lives.count) == (kind, unit, count)
        assert len(block.heads) == (count if unit == "head" else 0)
        assert 0 < block.written <= 2 and block.added > 0


def test_half_lives_of_rwkv_come_from_its_decays(models: dict[str, llmcli.LoadedModel]) -> None:
    mixing = blocks(models[RWKV].model)[1].mixer
    assert isinstance(mixing, TimeMixing)
    lives = math.log(2) / mixing.time_decay.exp()
    found = memories(models[RWKV], IDS, 3).blocks[1].half_lives
    assert found.shortest == pytest.approx(float(lives.min()), rel=1e-5)
    assert found.longest == pytest.approx(float(lives.max()), rel=1e-5)


@pytest.mark.parametrize("case", [RWKV, XLSTM])
def test_what_a_token_wrote_does_not_depend_on_the_scale(models: dict[str, llmcli.LoadedModel], case: str) -> None:
    calls: list[RecurrenceCall] = []
    with on_recurrence(models[case].model, calls.append):
        models[case].model(torch.tensor([IDS]))

    def whole(memory: torch.Tensor | None) -> torch.Tensor:
        assert memory is not None
        sums, scale = (memory[:, :2], memory[:, 2:]) if case == RWKV else (memory[..., :-1], memory[..., -1:])
        return (sums.double() * scale.double().exp())[0]

    for block, call in enumerate(calls):
        before, after = whole(call.memory_after(50)), whole(call.memory_after(51))
        decay = call.log_decay()[0, 50].double().exp()
        faded = before * (decay if case == RWKV else decay[:, None, None])
        expected = float((after - faded).norm() / after.norm())
        assert memories(models[case], IDS, 50).blocks[block].written == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("case", [RWKV, XLSTM])
@pytest.mark.parametrize("hidden", [range(30, 40), range(70), range(1)], ids=["middle", "a whole chunk", "first"])
def test_hidden_tokens_do_not_matter(models: dict[str, llmcli.LoadedModel], case: str, hidden: range) -> None:
    loaded, other = models[case], [*IDS]
    other[hidden.start : hidden.stop] = random_ids(len(hidden), seed=5)
    with without_states(loaded.model, hidden):
        found, expected = loaded.logits(IDS)[-1], loaded.logits(other)[-1]
    assert found.isfinite().all()
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("case", [RWKV, XLSTM])
def test_contributions_of_all_parts_and_neurons_add_up(models: dict[str, llmcli.LoadedModel], case: str) -> None:
    loaded = models[case]
    traced = trace(loaded.model, IDS, [20], parts=True)
    found = attribution(loaded, traced, 0, 65)
    assert abs(found.rounding) < 1e-4
    direction = Direction(loaded, traced, 0, 65)
    for block, part in enumerate(found.blocks):
        ((_, each),) = direction.neurons(block)
        assert float(each.sum()) == pytest.approx(part.feed_forward, abs=1e-4)
    assert found.neurons and not found.heads


def test_a_neuron_that_is_switched_off_writes_nothing(models: dict[str, llmcli.LoadedModel]) -> None:
    loaded = models[RWKV]
    mixing = blocks(loaded.model)[1].mlp
    assert isinstance(mixing, ChannelMixing)
    expected = loaded.logits(IDS)
    with without_neurons(loaded.model, [(1, 3)]):
        off = loaded.logits(IDS)
    column = mixing.down_proj.weight[:, 3].clone()
    with torch.no_grad():
        mixing.down_proj.weight[:, 3] = 0
        zeroed = loaded.logits(IDS)
        mixing.down_proj.weight[:, 3] = column
    assert torch.allclose(off, zeroed, atol=1e-5) and not torch.allclose(off, expected, atol=1e-4)


def test_what_these_models_lack_is_refused(models: dict[str, llmcli.LoadedModel]) -> None:
    for case, name in ((RWKV, "RWKV-4 time mixing"), (XLSTM, "mLSTM")):
        with pytest.raises(UsageError, match=f"no attention: its blocks remember the text by {name}"):
            check_attends(models[case].config)
    with pytest.raises(UnsupportedModelError, match="a gate multiplies the output"):
        check_editable(models[RWKV].config, "this model", None)
