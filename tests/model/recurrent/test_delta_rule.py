"""The delta rule gives the same token by token and chunk by chunk."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llmcli.model.recurrent.chunks import CHUNK
from llmcli.model.recurrent.delta_rule import by_chunk, by_token, delta_rule

BATCH, HEADS, KEY, VALUE = 2, 3, 8, 6


def inputs(tokens: int, decays: int, slowest: float, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Queries, keys, values, logarithms of the decay down to `slowest`, beta up to 2, and a memory."""
    generator = torch.Generator().manual_seed(tokens)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    per_token = BATCH, tokens, HEADS
    q, k = random(*per_token, KEY), F.normalize(random(*per_token, KEY), dim=-1)
    log_decay = slowest * torch.sigmoid(3 * random(*per_token, decays))
    beta = 2 * torch.sigmoid(random(*per_token))
    return [q, k, random(*per_token, VALUE), log_decay, beta, random(BATCH, HEADS, KEY, VALUE)]


@pytest.mark.parametrize("decays", [1, KEY], ids=["by head", "by channel"])
@pytest.mark.parametrize("tokens", [1, CHUNK, 2 * CHUNK + 7])
def test_chunks_give_what_tokens_give(tokens: int, decays: int) -> None:
    given = inputs(tokens, decays, -5.0)
    for found, expected in zip(by_chunk(*given), by_token(*given), strict=True):
        assert torch.allclose(found, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("decays", [1, KEY], ids=["by head", "by channel"])
def test_a_decay_that_forgets_all_does_not_overflow(decays: int) -> None:
    # exp(-1000) is zero in float32, and exp(1000) infinite.
    given = inputs(2 * CHUNK, decays, -1000.0, torch.float32)
    for found, expected in zip(by_chunk(*given), by_token(*given), strict=True):
        assert torch.allclose(found, expected, atol=1e-4)


def test_a_text_in_pieces_gives_what_the_whole_gives() -> None:
    q, k, v, log_decay, beta, state = inputs(CHUNK + 30, 1, -0.2)
    whole, last = delta_rule(q, k, v, log_decay, beta, state)
    outputs, start = [], 0
    for size in (1, 20, 3, CHUNK + 6):
        now = slice(start, start + size)
        piece, state = delta_rule(q[:, now], k[:, now], v[:, now], log_decay[:, now], beta[:, now], state)
        outputs.append(piece)
        start += size
    assert torch.allclose(torch.cat(outputs, dim=1), whole, rtol=0, atol=1e-13)
    assert torch.allclose(state, last, rtol=0, atol=1e-13)
