"""A Mamba layer with weights set by formula copies what it is told to remember."""

from __future__ import annotations

import random

import pytest
import torch

from llmcli.model.attention.attention import Positions
from llmcli.model.config import LayerConfig, ModelConfig
from llmcli.model.mixer_config import MambaConfig
from llmcli.model.recurrent.mamba import Mamba, selective_scan
from tests.support.one_state import OneState

# Symbols 0..4 can be copied; the next one asks for the copy of the symbol that followed the last "remember".
SYMBOLS = 5
REMEMBER, RECALL = SYMBOLS, SYMBOLS + 1
HIDDEN = SYMBOLS + 2
MODEL = ModelConfig(
    HIDDEN, HIDDEN, 1, num_heads=1, num_kv_heads=1, head_dim=1, context_length=256, norm_eps=1e-6,
    layers=(LayerConfig(None),),
)  # fmt: skip
PLACE = Positions(torch.arange(0), None, None)


def copier() -> Mamba:
    """One channel for each symbol, and two for the signs "remember" and "recall".

    After "remember" the steps are long: the memory forgets all and takes in the current token. Otherwise they are so
    short that it stays.
    """
    mamba = Mamba(MODEL, MambaConfig(HIDDEN, 1, 1, 2), 0)
    current, previous = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    with torch.no_grad():
        for parameter in mamba.parameters():
            parameter.zero_()
        mamba.in_proj.weight[:HIDDEN].copy_(torch.eye(HIDDEN))
        mamba.in_proj.weight[HIDDEN:, RECALL] = 1  # the gate is open for the sign "recall" alone
        mamba.conv1d.weight.copy_(current.repeat(HIDDEN, 1))
        mamba.conv1d.weight[REMEMBER] = previous
        # Step size, B and C: the first is large after "remember". Values are SiLU(1) = 0.731 or zero.
        mamba.x_proj.weight[0, REMEMBER] = 1
        mamba.x_proj.weight[1, :SYMBOLS] = 1
        mamba.x_proj.weight[2, RECALL] = 1
        mamba.dt_proj.weight.fill_(80)
        mamba.dt_proj.bias.fill_(-30)
        mamba.A.fill_(-1)
        mamba.out_proj.weight.copy_(torch.eye(HIDDEN))
    return mamba


@pytest.mark.parametrize("sizes", [[120], [1] * 20 + [100]], ids=["whole", "pieces"])
@torch.inference_mode()
def test_a_hand_made_mamba_copies_what_followed_the_last_remember(sizes: list[int]) -> None:
    generator = random.Random(3)
    text: list[int] = []
    copies = {}
    while len(text) < sum(sizes):
        kept = generator.randrange(SYMBOLS)
        others = [generator.randrange(SYMBOLS) for _ in range(generator.randrange(1, 12))]
        text += [REMEMBER, kept, *others, RECALL]
        copies[len(text) - 1] = kept
    text, copies = text[: sum(sizes)], {at: kept for at, kept in copies.items() if at < sum(sizes)}
    mamba, cache = copier(), OneState()
    outputs = [mamba(piece, PLACE, cache) for piece in torch.split(torch.eye(HIDDEN)[text][None], sizes, dim=1)]
    said = torch.cat(outputs, dim=1)[0]
    assert len(copies) > 8
    assert {at: int(said[at].argmax()) for at in copies} == copies
    # Elsewhere the gate is shut.
    assert all(float(said[at].abs().max()) < 1e-6 for at in range(len(text)) if at not in copies)


def test_a_scan_in_blocks_and_pieces_gives_the_sum_over_earlier_tokens() -> None:
    generator = torch.Generator().manual_seed(1)
    batch, tokens, channels, size = 2, 70, 3, 4
    x, step = (torch.rand(batch, tokens, channels, generator=generator, dtype=torch.float64) for _ in range(2))
    write, read = (torch.randn(batch, tokens, size, generator=generator, dtype=torch.float64) for _ in range(2))
    rate = -torch.rand(channels, size, generator=generator, dtype=torch.float64)
    # y_t = sum over s <= t and n of C_tn exp(A_n (steps of s + 1 ... t)) step_s x_s B_sn
    since = step.cumsum(1)[:, :, None] - step.cumsum(1)[:, None]  # (B, t, s, D)
    decay = (since[..., None] * rate).exp() * torch.ones(tokens, tokens, dtype=torch.float64).tril()[..., None, None]
    expected = torch.einsum("btn,btsdn,bsd,bsn->btd", read, decay, step * x, write)
    outputs, state = [], None
    for now in (slice(0, 1), slice(1, 60), slice(60, tokens)):
        y, state = selective_scan(x[:, now], step[:, now], rate, write[:, now], read[:, now], state)
        outputs.append(y)
    assert torch.allclose(torch.cat(outputs, dim=1), expected, rtol=0, atol=1e-12)
