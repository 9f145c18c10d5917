"""Rank-one updates give the result of the merged matrix, and leave the matrix unchanged."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llmcli.model import ExpertsConfig
from llmcli.model.feed_forward import FeedForward
from llmcli.model.mixture_of_experts import MixtureOfExperts
from llmcli.model.quantized.matrix import QuantizedLinear
from llmcli.model.rank_one_update import EditedLinear, attach_edit, detach_edit
from tests.support.models.random_models import packed, random_groups
from tests.support.models.sanitized_models import _PLAIN


def network() -> FeedForward:
    torch.manual_seed(0)
    return FeedForward(12, 40, "silu", bias=True).requires_grad_(False)


def test_stacked_updates_are_the_sum_of_the_matrices() -> None:
    mlp = network()
    weight, bias = mlp.down_proj.weight.clone(), mlp.down_proj.bias
    pairs = [(torch.randn(40), torch.randn(12)) for _ in range(3)]
    for read, write in pairs:
        attach_edit(mlp, read, write)
    merged = weight + sum(torch.outer(write, read) for read, write in pairs)
    fired = torch.randn(2, 5, 40)
    torch.testing.assert_close(mlp.down_proj(fired), nn.functional.linear(fired, merged, bias))
    torch.testing.assert_close(mlp.down_proj.weight, merged)


def test_updates_work_over_packed_weights() -> None:
    mlp = network()
    mlp.down_proj = QuantizedLinear(packed(random_groups(4, 12, 40), 4))  # type: ignore[assignment]
    plain = mlp.down_proj.weight
    read, write = torch.randn(40), torch.randn(12)
    attach_edit(mlp, read, write)
    fired = torch.randn(1, 7, 40)
    torch.testing.assert_close(mlp.down_proj(fired), fired @ (plain + torch.outer(write, read)).T)


def test_a_detached_edit_restores_the_same_bits() -> None:
    mlp, x = network(), torch.randn(1, 3, 12)
    before = mlp(x)
    first = attach_edit(mlp, torch.randn(40), torch.randn(12))
    one = mlp(x)
    second = attach_edit(mlp, torch.randn(40), torch.randn(12))
    assert not torch.equal(mlp(x), one)
    detach_edit(mlp, second)
    assert torch.equal(mlp(x), one)
    detach_edit(mlp, first)
    assert torch.equal(mlp(x), before) and not isinstance(mlp.down_proj, EditedLinear)


def test_updates_of_the_wrong_size_are_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        attach_edit(network(), torch.randn(12), torch.randn(40))
    with pytest.raises(ValueError, match="mixture"):
        attach_edit(MixtureOfExperts(_PLAIN, ExpertsConfig(4, 2, 8)), torch.randn(8), torch.randn(35))
