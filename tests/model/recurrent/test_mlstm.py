"""The recurrence of an mLSTM: chunk by chunk, token by token, and by its definition without a scale."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llmcli.model.recurrent.chunks import CHUNK
from llmcli.model.recurrent.mlstm import by_chunk, by_token, mlstm
from llmcli.model.recurrent.recurrence import Rule

RULE: Rule = mlstm
BATCH, HEADS, KEY, VALUE = 2, 3, 4, 5


def inputs(tokens: int, cap: float = 15.0, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Queries, keys, values and logarithms of both gates, which are within plus and minus `cap`."""
    generator = torch.Generator().manual_seed(tokens)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(BATCH, tokens, HEADS, *shape, generator=generator, dtype=torch.float64).to(dtype)

    forget, write = (cap * torch.tanh(random()) for _ in range(2))
    return [random(KEY), random(KEY), random(VALUE), F.logsigmoid(forget + 2), write]


def with_columns(given: list[torch.Tensor]) -> list[torch.Tensor]:
    """The inputs of the two ways to compute it: values with a one and a zero behind them, and a memory."""
    q, k, v, forget, write = given
    v = torch.cat((v, torch.ones_like(v[..., :1]), torch.zeros_like(v[..., :1])), dim=-1)
    memory = torch.randn(BATCH, HEADS, KEY, VALUE + 2, generator=torch.Generator().manual_seed(0)).to(q.dtype)
    memory[..., -1] = memory[..., :1, -1]  # the column of the scale has one number
    return [q, k, v, forget, write, memory]


@pytest.mark.parametrize("tokens", [1, CHUNK, 2 * CHUNK + 7])
def test_chunks_give_what_tokens_give(tokens: int) -> None:
    given = with_columns(inputs(tokens))
    (read, scale, memory), (read_1, scale_1, memory_1) = by_chunk(*given), by_token(*given)
    assert torch.allclose(read[..., :-1], read_1[..., :-1], rtol=1e-12, atol=1e-12)
    assert torch.allclose(scale, scale_1, rtol=0, atol=1e-12)
    assert torch.allclose(memory, memory_1, rtol=1e-12, atol=1e-12)


def test_the_output_is_that_of_the_definition() -> None:
    q, k, v, forget, write = inputs(30, cap=3.0)
    output, _ = mlstm(q, k, v, forget, write, None)
    memory, keys = torch.zeros(BATCH, HEADS, KEY, VALUE).double(), torch.zeros(BATCH, HEADS, KEY).double()
    for t in range(30):
        f, i = forget[:, t].exp()[..., None], write[:, t].exp()[..., None]
        memory = f[..., None] * memory + (i * k[:, t])[..., None] * v[:, t, :, None]
        keys = f * keys + i * k[:, t]
        length = (keys * q[:, t]).sum(-1).abs().clamp_min(1)
        expected = (q[:, t, :, None] @ memory).squeeze(2) / length[..., None]
        assert torch.allclose(output[:, t, :, :-1] / output[:, t, :, -1:], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cap", [15.0, 80.0])
def test_large_gates_do_not_overflow(cap: float) -> None:
    given = inputs(2 * CHUNK + 3, cap, torch.float32)
    output, memory = RULE(*given, None)
    assert output.isfinite().all() and memory.isfinite().all()
    expected, last = RULE(*(x.double() for x in given), None)
    close = (output[..., :-1] / (output[..., -1:] + 1e-6)).double()
    assert torch.allclose(close, expected[..., :-1] / (expected[..., -1:] + 1e-6), rtol=1e-3, atol=1e-3)
    assert torch.allclose(memory[..., -1].double(), last[..., -1], rtol=1e-5, atol=1e-4)


def test_a_text_in_pieces_gives_what_the_whole_gives() -> None:
    given = inputs(CHUNK + 30)
    whole, last = RULE(*given, None)
    outputs, memory = [], None
    for piece in zip(*(torch.split(x, [1, 20, 3, CHUNK + 6], dim=1) for x in given), strict=True):
        output, memory = RULE(*piece, memory)
        outputs.append(output)
    assert memory is not None
    assert torch.allclose(torch.cat(outputs, dim=1), whole, rtol=1e-12, atol=1e-12)
    assert torch.allclose(memory, last, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tokens", [5, CHUNK + 5])
def test_tokens_that_are_not_written_leave_the_memory_as_it_is(tokens: int) -> None:
    q, k, v, forget, write = inputs(tokens)
    forget[:, :], write[:, :] = 0.0, -torch.inf
    output, memory = mlstm(q, k, v, forget, write, None)
    assert torch.equal(output, torch.cat((torch.zeros_like(v), torch.ones_like(v[..., :1])), dim=-1))
    assert not memory.any()
