"""The recurrence of Mamba-2 gives the same token by token and chunk by chunk."""

from __future__ import annotations

import pytest
import torch

from llmcli.model.recurrent.chunks import CHUNK
from llmcli.model.recurrent.ssd import by_chunk, by_token, ssd

BATCH, HEADS, GROUPS, SIZE, STATE = 2, 6, 3, 4, 5


def inputs(tokens: int, fastest: float, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Values, step sizes up to `fastest`, rates, writes and reads of `tokens` tokens, and a memory."""
    generator = torch.Generator().manual_seed(tokens)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    step = fastest * torch.sigmoid(3 * random(BATCH, tokens, HEADS))
    shared = BATCH, tokens, GROUPS, STATE
    memory = random(BATCH, HEADS, SIZE, STATE)
    return [random(BATCH, tokens, HEADS, SIZE), step, -random(HEADS).abs(), random(*shared), random(*shared), memory]


@pytest.mark.parametrize("tokens", [1, CHUNK, 2 * CHUNK + 7])
def test_chunks_give_what_tokens_give(tokens: int) -> None:
    x, step, rate, write, read, memory = inputs(tokens, 3.0)
    given = x, step * rate, write, read, memory
    for found, expected in zip(by_chunk(*given), by_token(*given), strict=True):
        assert torch.allclose(found, expected, rtol=0, atol=1e-13)


def test_steps_that_forget_all_do_not_overflow() -> None:
    x, step, rate, write, read, memory = inputs(2 * CHUNK, 1000.0, torch.float32)
    given = x, step * rate, write, read, memory
    for found, expected in zip(by_chunk(*given), by_token(*given), strict=True):
        assert torch.allclose(found, expected, atol=1e-4)


def test_a_text_in_pieces_gives_what_the_whole_gives() -> None:
    x, step, rate, write, read, memory = inputs(CHUNK + 30, 0.1)
    whole, last = ssd(x, step, rate, write, read, memory)
    outputs, start = [], 0
    for size in (1, 20, 3, CHUNK + 6):
        now = slice(start, start + size)
        piece, memory = ssd(x[:, now], step[:, now], rate, write[:, now], read[:, now], memory)
        outputs.append(piece)
        start += size
    assert torch.allclose(torch.cat(outputs, dim=1), whole, rtol=0, atol=1e-13)
    assert torch.allclose(memory, last, rtol=0, atol=1e-13)
