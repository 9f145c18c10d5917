"""Time mixing of RWKV-4: blocks of tokens give what its definition gives, whatever the size of exponents."""

from __future__ import annotations

import pytest
import torch

from llmcli.model.recurrent.recurrence import Rule
from llmcli.model.recurrent.rwkv4 import TokenShift, wkv

RULE: Rule = wkv
BATCH, WIDTH = 2, 6


def inputs(tokens: int, size: float = 1.0, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Values, logarithms of decays, keys, and keys of tokens for themselves; exponents are about as large as `size`."""
    generator = torch.Generator().manual_seed(tokens)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    key = size * random(BATCH, tokens, WIDTH)
    log_decay = -(2 * random(WIDTH)).exp().expand_as(key)
    return [random(BATCH, tokens, WIDTH), log_decay, key, key + random(WIDTH)]


def by_definition(value: torch.Tensor, log_decay: torch.Tensor, key: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Sums over all earlier tokens, in logarithms."""
    outputs = []
    for t in range(value.shape[1]):
        ages = torch.arange(t - 1, -1, -1)[:, None]
        exponents = torch.cat((key[:, :t] + ages * log_decay[:, :t], own[:, t : t + 1]), dim=1)
        outputs.append((exponents.softmax(1) * value[:, : t + 1]).sum(1))
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize("tokens", [1, 64, 150])
def test_the_output_is_that_of_the_definition(tokens: int) -> None:
    given = inputs(tokens)
    assert torch.allclose(RULE(*given, None)[0], by_definition(*given), rtol=0, atol=1e-12)


def test_large_exponents_do_not_overflow() -> None:
    given = inputs(150, 1000.0, torch.float32)
    expected = by_definition(*(x.double() for x in given))
    assert torch.allclose(RULE(*given, None)[0].double(), expected, rtol=0, atol=1e-2)


def test_a_text_in_pieces_gives_what_the_whole_gives() -> None:
    given = inputs(150)
    whole, last = RULE(*given, None)
    outputs, memory = [], None
    for piece in zip(*(torch.split(x, [1, 20, 3, 70, 56], dim=1) for x in given), strict=True):
        output, memory = RULE(*piece, memory)
        outputs.append(output)
    assert memory is not None
    assert torch.allclose(torch.cat(outputs, dim=1), whole, rtol=0, atol=1e-12)
    assert torch.allclose(memory[:, :2] * memory[:, 2:].exp(), last[:, :2] * last[:, 2:].exp(), rtol=1e-12)


def test_a_token_that_is_not_written_reads_the_memory_and_leaves_it() -> None:
    value, log_decay, key, own = inputs(9)
    log_decay, key = log_decay.clone(), key.clone()
    log_decay[:, [0, 5]], key[:, [0, 5]] = 0.0, -torch.inf
    output, memory = wkv(value, log_decay, key, own, None)
    assert torch.equal(output[:, 0], value[:, 0])
    left = [1, 2, 3, 4, 6, 7, 8]
    expected, last = wkv(value[:, left], log_decay[:, left], key[:, left], own[:, left], None)
    assert torch.allclose(output[:, left], expected, rtol=0, atol=1e-12)
    assert torch.allclose(memory, last, rtol=1e-12)


def test_the_token_before_the_first_is_zero_or_the_last_of_the_piece_before() -> None:
    shift, x = TokenShift(), torch.arange(5.0).view(1, 5, 1) + 1
    first, tail = shift(x[:, :2], None)
    second, tail = shift(x[:, 2:], tail)
    assert torch.cat((first, second), dim=1).flatten().tolist() == [0, 1, 2, 3, 4]
    assert tail.tolist() == [[[5]]]
