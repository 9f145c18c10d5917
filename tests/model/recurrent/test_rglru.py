"""An RG-LRU whose gates are closed remembers its first input."""

from __future__ import annotations

import torch

from llmcli.model.attention.attention import Positions
from llmcli.model.config import LayerConfig, ModelConfig
from llmcli.model.mixer_config import RglruConfig
from llmcli.model.recurrent.rglru import Rglru
from tests.support.one_state import OneState

MODEL = ModelConfig(
    4, 4, 1, num_heads=1, num_kv_heads=1, head_dim=1, context_length=256, norm_eps=1e-6, layers=(LayerConfig(None),)
)  # fmt: skip


def test_gates_that_round_to_zero_keep_the_first_input() -> None:
    rglru = Rglru(MODEL, RglruConfig(4, 2, 2), 0)
    x = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in rglru.parameters():
            parameter.zero_()
        for linear in (rglru.linear_x, rglru.linear_out):
            linear.weight.copy_(torch.eye(4))
        rglru.linear_y.bias.fill_(1)
        rglru.conv1d.weight[:, 1] = 1
        rglru.recurrent_gate_bias.fill_(-200)  # a sigmoid of zero in float32
        cache = OneState()
        place = Positions(torch.arange(0), None, None)
        output = torch.cat([rglru(piece, place, cache) for piece in (x[:, :3], x[:, 3:])], dim=1)
    assert output[:, :1].abs().min() > 0
    assert torch.equal(output, output[:, :1].expand_as(output))
