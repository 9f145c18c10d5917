"""A delta net with weights set by formula recalls what it stored."""

from __future__ import annotations

import random

import pytest
import torch

from llmcli.model.attention.attention import Positions
from llmcli.model.config import LayerConfig, ModelConfig
from llmcli.model.mixer_config import DeltaConfig
from llmcli.model.recurrent.delta_net import DeltaNet
from tests.support.one_state import OneState

# Symbols 0..3 are keys, 4..8 values; each is a unit vector.
KEYS, VALUES = 4, 5
SYMBOLS = KEYS + VALUES
MODEL = ModelConfig(
    SYMBOLS, SYMBOLS, 1, num_heads=1, num_kv_heads=1, head_dim=1, context_length=256, norm_eps=1e-6,
    layers=(LayerConfig(None),),
)  # fmt: skip
PLACE = Positions(torch.arange(0), None, None)


def associative_memory(decay: str) -> DeltaNet:
    """Stores each value under the symbol before it, and answers each key with the value it last stored."""
    delta = DeltaConfig(1, 1, SYMBOLS, SYMBOLS, 2, decay="head" if decay == "head" else "channel", gate="sigmoid")
    net = DeltaNet(MODEL, delta, 0)
    assert isinstance(net.in_proj_a, torch.nn.Linear) and isinstance(net.in_proj_z, torch.nn.Linear)
    eye = torch.eye(SYMBOLS)
    with torch.no_grad():
        net.in_proj_qkv.weight.copy_(eye.repeat(3, 1))
        current, previous = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
        net.conv1d.weight.copy_(torch.stack((current, previous, current)).repeat_interleave(SYMBOLS, dim=0))
        # beta is nearly 1 for values, which are written, and nearly 0 for keys.
        net.in_proj_b.weight.copy_(torch.tensor([[-20.0] * KEYS + [20.0] * VALUES]))
        net.in_proj_a.weight.zero_()
        net.dt_bias.zero_()
        net.A.fill_(-1e-6)  # the memory hardly fades
        net.in_proj_z.weight.zero_()
        net.norm.weight.fill_(1)
        net.out_proj.weight.copy_(eye)
    return net


@pytest.mark.parametrize("decay", ["head", "channel"])
@pytest.mark.parametrize("sizes", [[200], [1] * 40 + [160]], ids=["whole", "pieces"])
@torch.inference_mode()
def test_a_hand_made_delta_net_recalls_the_last_value_of_each_key(decay: str, sizes: list[int]) -> None:
    generator = random.Random(7)
    text: list[int] = []
    stored: dict[int, int] = {}
    recalled = {}
    while len(text) < sum(sizes):
        key, value = generator.randrange(KEYS), KEYS + generator.randrange(VALUES)
        if key in stored:
            recalled[len(text)] = stored[key]
        text += [key, value]
        stored[key] = value
    net, cache = associative_memory(decay), OneState()
    outputs = [net(piece, PLACE, cache) for piece in torch.split(torch.eye(SYMBOLS)[text][None], sizes, dim=1)]
    answers = torch.cat(outputs, dim=1)[0].argmax(-1).tolist()
    assert len(recalled) > 90
    assert {at: answers[at] for at in recalled} == recalled
