"""The gated short convolution: by its formula, and in a model whose text is read in pieces."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from llmcli.kernels.base import NoKernelError
from llmcli.kernels.cuda.readable_graph_step import GraphStep
from llmcli.model import LayerConfig, ModelConfig, RopeConfig, Transformer
from llmcli.model.mixer_config import ShortConvConfig

CONV = LayerConfig(None, window=3, mixer=ShortConvConfig(3))
CONFIG = ModelConfig(
    vocab_size=30, hidden_size=16, intermediate_size=24, num_heads=2, num_kv_heads=1, head_dim=8, context_length=2000,
    norm_eps=1e-5, layers=(CONV, LayerConfig(RopeConfig(1e4, 8)), CONV),
)  # fmt: skip


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(CONFIG).requires_grad_(False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_it_gates_the_inputs_and_the_output_of_a_convolution(model: Transformer) -> None:
    mixer: Any = model.layers[0].mixer
    x = torch.randn(1, 9, 16)
    before, after, values = (x @ mixer.in_proj.weight.T).split(16, dim=-1)
    u = torch.cat((torch.zeros(1, 2, 16), before * values), dim=1)
    weight = mixer.conv.weight
    v = u[:, :-2] * weight[:, 0] + u[:, 1:-1] * weight[:, 1] + u[:, 2:] * weight[:, 2]
    torch.testing.assert_close(mixer(x, None, None), (after * v) @ mixer.out_proj.weight.T)


@pytest.mark.parametrize("piece", [1, 7, 64, 65, 513])
def test_a_text_read_in_pieces_has_the_logits_of_the_whole(model: Transformer, piece: int) -> None:
    ids = torch.randint(30, (1, 600 if piece > 7 else 40))
    cache = model.new_cache(capacity=4, room=30)
    read = torch.cat([model(ids[:, start : start + piece], cache) for start in range(0, ids.shape[1], piece)], dim=1)
    torch.testing.assert_close(read, model(ids), atol=2e-5, rtol=2e-5)


def test_positions_can_be_forgotten_again(model: Transformer) -> None:
    ids = torch.randint(30, (1, 50))
    cache = model.new_cache()
    model(ids[:, :45], cache)
    cache.truncate(31)
    torch.testing.assert_close(model(ids[:, 31:], cache), model(ids)[:, 31:], atol=2e-5, rtol=2e-5)


def test_a_mark_holds_what_the_convolutions_have_dropped(model: Transformer) -> None:
    ids = torch.randint(30, (1, 400))
    cache = model.new_cache(rewind=5, room=4)
    for start, end in pairwise((0, 1, 100, 200, 300)):
        model(ids[:, start:end], cache)
        cache.mark()
    assert [cache.reusable(length) for length in (300, 195, 160, 99, 1, 0)] == [300, 195, 100, 1, 1, 0]
    for length in (100, 1):
        cache.truncate(length)
        torch.testing.assert_close(model(ids[:, length:], cache), model(ids)[:, length:], atol=2e-5, rtol=2e-5)


def test_no_graph_can_run_it(model: Transformer) -> None:
    with pytest.raises(NoKernelError, match="short convolution"):
        GraphStep(model, "")
