"""Each matrix kernel gives the result of the readable model's modules, for every format of the matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llmcli.kernels.cuda.support import ACTIVATIONS
from llmcli.model import NormStyle
from llmcli.model.config import Activation
from llmcli.model.feed_forward import make_activation
from llmcli.model.norm import make_norm
from llmcli.model.quantized.layout import PackedFormat
from llmcli.model.quantized.matrix import PackedMatrix
from tests.support.kernels.triton_device import DEVICE
from tests.support.models.random_models import WIDE, packed, random_groups

from llmcli.kernels.triton.linear import add_normed, embed, feed_forward, linear  # isort: skip
from triton.language import float32  # isort: skip

pytestmark = pytest.mark.slow

Weights = Tensor | PackedMatrix
PACKED = {str(kept): kept for kept in WIDE}
FORMATS = ("float32", "bfloat16", "float16", *PACKED)
EPS = 1e-5
NONE = torch.zeros(1, device=DEVICE)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def weights(kind: str, rows: int, columns: int, *, seed: int = 0) -> tuple[Tensor, Tensor, PackedFormat | None]:
    """The matrix for a kernel, its float32 values, and its packed format."""
    if kind in PACKED:
        matrix = packed(random_groups(PACKED[kind], rows, columns, seed=seed), PACKED[kind]).to(DEVICE)
        return matrix.blocks.view(torch.int32), matrix[0].float().to(DEVICE), matrix.format
    dense = (random(rows, columns, seed=seed) * columns**-0.5).to(getattr(torch, kind))
    return dense, dense.float(), None


def format_of(kept: PackedFormat | None) -> dict[str, int]:
    return {"bits": kept.bits if kept else 0, "group": kept.group or 0 if kept else 0}


def tile(kept: PackedFormat | None, tokens: int) -> dict[str, Any]:
    rows, columns = (4, 32) if tokens == 1 else (16, 32)
    if kept:
        rows, columns = (16, 128) if tokens == 1 else (32, 64)
    return {**format_of(kept), "rows": rows, "columns": columns, "operand": float32, "pdl": False}


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert float((ours - theirs).norm() / theirs.norm()) < 3e-6


@pytest.mark.parametrize("tokens", [1, 16])
@pytest.mark.parametrize(("rows", "columns"), [(16, 32), (37, 100), (5, 290), (18, 384)])
@pytest.mark.parametrize("kind", FORMATS)
def test_products(kind: str, rows: int, columns: int, tokens: int) -> None:
    w, matrix, kept = weights(kind, rows, columns)
    x, y = random(tokens, columns, seed=1), torch.zeros(tokens, rows, device=DEVICE)
    shape = tile(kept, tokens)
    linear[(-(-rows // shape["rows"]),)](
        x, w, w, w, NONE, NONE, NONE, rows, 0, 0, NONE, NONE, NONE, NONE, y, rows, 0.0, 1.0, 0.0,
        size=columns, norm=0, several=False, has_bias=False, has_residual=False, has_gate=False,
        capped=False, tokens=tokens, **shape,
    )  # fmt: skip
    close(y, x @ matrix.T)


@pytest.mark.parametrize("style", [NormStyle(), NormStyle("layer", bias=True)], ids=["rms", "layer"])
@pytest.mark.parametrize("tokens", [1, 16])
@pytest.mark.parametrize("kind", ["float32", "int4 g32", "int4 g128", "int8 g32", "int8 by row"])
def test_norm_bias_gate_cap_and_residual_around_three_matrices(kind: str, tokens: int, style: NormStyle) -> None:
    columns, numbers = 70, (33, 16, 9)
    parts = [weights(kind, rows, columns, seed=rows) for rows in numbers]
    biases = [random(rows, seed=rows + 1) for rows in numbers]
    norm: Any = make_norm(columns, EPS, style).to(DEVICE)
    for parameter in norm.parameters():
        parameter.data = random(columns, seed=7)
    bias: Any = norm.bias if style.bias else NONE
    x = random(tokens, columns, seed=1) + 0.5
    residual, gate = random(tokens, sum(numbers), seed=2), random(tokens, 1, seed=3)
    y = torch.zeros_like(residual)
    shape = tile(parts[0][2], tokens)
    linear[(sum(-(-rows // shape["rows"]) for rows in numbers),)](
        x, *(w for w, _, _ in parts), *biases, *numbers, norm.weight.detach(), bias.detach(), residual, gate, y,
        sum(numbers), EPS, 0.7, 1.5,
        size=columns, norm=2 if style.bias else 1, several=True, has_bias=True, has_residual=True,
        has_gate=True, capped=True, tokens=tokens, **shape,
    )  # fmt: skip
    added = norm(x).detach() @ torch.cat([matrix for _, matrix, _ in parts]).T + torch.cat(biases)
    close(y, residual + 1.5 * torch.tanh(0.7 * added * gate.sigmoid() / 1.5))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation: Activation) -> None:
    feed_forward_is_right("float32", 1, activation, gated=False)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("tokens", [1, 16])
@pytest.mark.parametrize("kind", ["bfloat16", *PACKED])
def test_feed_forward(kind: str, tokens: int, gated: bool) -> None:
    feed_forward_is_right(kind, tokens, "silu", gated=gated)


def feed_forward_is_right(kind: str, tokens: int, activation: Activation, *, gated: bool) -> None:
    rows, columns = 40, 48
    (gate, gate_matrix, kept), (up, up_matrix, _) = (weights(kind, rows, columns, seed=seed) for seed in (1, 2))
    biases = random(2, rows, seed=3)
    weight, x = random(columns, seed=4), random(tokens, columns, seed=5)
    y = torch.zeros(tokens, rows, device=DEVICE)
    shape = tile(kept, tokens)
    feed_forward[(-(-rows // shape["rows"]),)](
        x, gate, up, biases[0], biases[1], rows, weight, NONE, y, EPS,
        size=columns, norm=1, gated=gated, activation=ACTIVATIONS.index(activation),
        has_bias=True, tokens=tokens, **shape,
    )  # fmt: skip
    normed = nn.functional.rms_norm(x, (columns,), weight, EPS)
    act: Callable[[Tensor], Tensor] = make_activation(activation)
    lifted = normed @ up_matrix.T + biases[1]
    close(y, act(normed @ gate_matrix.T + biases[0]) * lifted if gated else act(lifted))


@pytest.mark.parametrize("kind", FORMATS)
def test_embeddings(kind: str) -> None:
    vocabulary, columns, ids = 50, 200, [0, 49, 17, 33]
    table, matrix, kept = weights(kind, vocabulary, columns)
    positions = random(20, columns, seed=2).half()
    y = torch.zeros(len(ids), columns, device=DEVICE)
    state = torch.tensor([11, 4, 0, 0], device=DEVICE)
    embed[(len(ids),)](
        torch.tensor(ids, device=DEVICE), table, positions, state, y, 1.5,
        size=columns, **format_of(kept), learned=True, block=256, pdl=False,
    )  # fmt: skip
    close(y, 1.5 * matrix[ids] + positions[11:15].float())


def test_padding_rows_get_the_last_tokens_position() -> None:
    # Two tokens before the last learned position: memory behind it must not be read.
    table, positions = random(50, 16), torch.full((9, 16), torch.nan, device=DEVICE)
    positions[:7] = 0.5
    y, state = torch.zeros(4, 16, device=DEVICE), torch.tensor([5, 2, 0, 0], device=DEVICE)
    embed[(4,)](
        torch.zeros(4, dtype=torch.int64, device=DEVICE), table, positions, state, y, 1.0,
        size=16, bits=0, group=32, learned=True, block=16, pdl=False,
    )  # fmt: skip
    close(y, table[0] + torch.full_like(y, 0.5))


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_output_norm_and_residual(kind: str) -> None:
    columns = 70
    norm: Any = make_norm(columns, EPS, NormStyle("layer", bias=True) if kind == "layer" else NormStyle()).to(DEVICE)
    for seed, parameter in enumerate(norm.parameters()):
        parameter.data = random(columns, seed=seed)
    x, residual = random(3, columns, seed=8) + 1, random(3, columns, seed=9)
    y = torch.zeros_like(x)
    bias = norm.bias.detach() if kind == "layer" else torch.zeros(columns, device=DEVICE)
    add_normed[(3,)](
        x, residual, norm.weight.detach(), bias, y, EPS, size=columns, norm=2 if kind == "layer" else 1, block=128,
        pdl=False,
    )  # fmt: skip
    close(y, residual + norm(x).detach())
