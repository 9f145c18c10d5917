"""Views of a model with compressed blocks and several residual streams: they work, or say why they do not."""

from __future__ import annotations

import pytest
import torch

import llmcli
from llmcli.commands.shared.token_report import with_attention
from llmcli.engine import SamplingParams, Step
from llmcli.errors import UnsupportedModelError
from llmcli.inspection.attention.head_scores import head_atlas, random_repeats
from llmcli.inspection.attention.reply import ReplyAttention
from llmcli.inspection.attention.summary import summary
from llmcli.inspection.core.hooks import on_router
from llmcli.inspection.core.neuron_values import firing, promotion
from llmcli.inspection.core.text_spans import Spans
from llmcli.inspection.evaluation.cost import keys_read, keys_seen
from llmcli.inspection.feed_forward.neurons import neurons
from llmcli.inspection.residual.logit_lens import lens
from llmcli.loaded_model import LoadedModel
from llmcli.model.block import Block
from tests.support.compressed import HEAVY, SPARSE
from tests.support.models.newer_cases import NEWER
from tests.support.models.tiny import random_ids
from tests.support.models.tiny_checkpoints import shared_checkpoint

IDS = random_ids(30)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    model_type, sizes = NEWER["deepseek v4"]
    return llmcli.load(shared_checkpoint(model_type, **sizes), dtype="float32", device="cpu")


def test_attention_is_refused_because_keys_are_blocks(loaded: LoadedModel) -> None:
    with pytest.raises(UnsupportedModelError, match="blocks of tokens"):
        summary(loaded, IDS, [29])
    with pytest.raises(UnsupportedModelError, match="blocks of tokens"):
        head_atlas(loaded, random_repeats(loaded, length=10))


def test_the_lens_reads_the_merged_streams(loaded: LoadedModel) -> None:
    layers = lens(loaded, IDS, [29]).lens[0].layers
    assert len(layers) == loaded.config.num_layers + 1
    expected = loaded.logits(IDS)[-1, : loaded.tokenizer.vocab_size].softmax(-1).max()
    assert layers[-1].top[0].prob == pytest.approx(float(expected), rel=1e-4)


def test_experts_by_table_are_seen_and_their_neurons_refused(loaded: LoadedModel) -> None:
    seen: dict[int, list[list[int]]] = {}
    with on_router(loaded.model, lambda block, _x, chosen, _weights: seen.update({block: chosen.tolist()})):
        loaded.logits(IDS)
    block = loaded.model.layers[0]
    assert isinstance(block, Block)
    assert seen[0] == block.mlp.get_parameter("gate.tid2eid")[torch.tensor(IDS)].tolist()
    with pytest.raises(UnsupportedModelError, match="by the token itself"):
        firing(block.mlp, torch.randn(32))
    with pytest.raises(UnsupportedModelError, match="several residual streams"):
        promotion(loaded, 1, torch.randn(32), 3)
    with pytest.raises(UnsupportedModelError, match="several residual streams"):
        neurons(loaded, IDS, 29)


def test_keys_of_a_query_are_its_window_and_blocks() -> None:
    assert [keys_seen(SPARSE, tokens) for tokens in (3, 8, 12, 100)] == [3, 8 + 2, 9 + 3, 9 + 3]
    assert [keys_seen(HEAVY, tokens) for tokens in (15, 16, 160)] == [9, 10, 19]
    for layer in (SPARSE, HEAVY):
        exact = sum(keys_seen(layer, tokens) for tokens in range(1, 2001))
        assert keys_read(layer, 2000) == exact


def test_restarting_from_a_block_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(UnsupportedModelError, match="choose experts by the token itself"):
        loaded.model.run_from_layer(torch.randn(1, 3, 96), 1)


def test_a_reply_with_attention_has_a_note_instead(loaded: LoadedModel, capsys: pytest.CaptureFixture[str]) -> None:
    events = loaded.engine().stream(IDS, SamplingParams(temperature=0, max_tokens=3))
    steps = [event for event in events if isinstance(event, Step)]
    reading = ReplyAttention(loaded, IDS, [step.id for step in steps], spans=Spans("token", loaded.tokenizer, ()))
    assert with_attention(reading, steps, loaded.tokenizer.token_bytes).steps == steps
    assert "blocks of tokens" in capsys.readouterr().err
