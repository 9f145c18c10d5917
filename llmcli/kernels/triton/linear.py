"""Kernels around matrices: norm + projections, norm + gate and up + activation, output + residual, the head.

Notes. Lower bound: reading the weights once at the memory's bandwidth. A layer has six launches: queries, keys and
values; attention and its sum over splits; output + residual; gate and up; down + residual. Each program computes the
norm again, from 16 KiB in the L2 cache, which saves two launches a layer and storing the normalized activations.
Prediction: 1.8 us for a launch and its ramp, so 0.35 ms a token for 32 layers. Not yet measured on a GPU.

Dimension letters: N rows, K columns, M tokens (1 or 16).
"""

import triton
import triton.language as tl

from llmcli.kernels.triton.gemv import product, tanh, tile
from llmcli.kernels.triton.packed_gemv import wide_values
from llmcli.kernels.triton.prologue import (
    LAYER_NORM,
    RMS_NORM,
    let_next_start,
    statistics,
    wait_for_previous,
)


@triton.jit
def linear(
    x, w0, w1, w2, bias0, bias1, bias2, n0, n1, n2, weight, bias, residual, gate, y, stride, eps, factor, softcap,
    size: tl.constexpr, norm: tl.constexpr, bits: tl.constexpr, group: tl.constexpr, several: tl.constexpr,
    has_bias: tl.constexpr, has_residual: tl.constexpr, has_gate: tl.constexpr, capped: tl.constexpr,
    tokens: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr, operand: tl.constexpr, pdl: tl.constexpr,
):  # fmt: skip
    """`y = residual + factor * (norm(x) W^T + bias)`, for up to three matrices, one after another in `y`.

    `x` (M, K), `y` and `residual` (M, stride). With `gate` (M, 1), token t's products are multiplied by its sigmoid;
    `capped` results z become `softcap * tanh(z / softcap)`.
    """
    let_next_start(pdl)
    block = tl.program_id(0)
    w, n, added, offset = w0, n0, bias0, 0
    if several:
        second, third = tl.cdiv(n0, rows), tl.cdiv(n0, rows) + tl.cdiv(n1, rows)
        if block >= third:
            w, n, added, offset, block = w2, n2, bias2, n0 + n1, block - third
        elif block >= second:
            w, n, added, offset, block = w1, n1, bias1, n0, block - second
    first = tile(w, block, n, 0, size, bits, group, rows, columns)
    wait_for_previous(pdl)
    inverse, mean = statistics(x, eps, size, norm, tokens)
    result = product(
        w, block, n, first, x, inverse, mean, weight, bias, size, norm, bits, group, tokens, rows, columns, operand
    )
    row = block * rows + tl.arange(0, rows)[:, None]
    token = tl.arange(0, tokens)[None, :]
    if has_bias:
        result += tl.load(added + row, mask=row < n, other=0.0)
    result *= factor
    if has_gate:
        result *= tl.sigmoid(tl.load(gate + token))
    if capped:
        result = softcap * tanh(result / softcap)
    place = token * stride + offset + row
    if has_residual:
        result += tl.load(residual + place, mask=row < n, other=0.0)
    tl.store(y + place, result, mask=row < n)


@triton.jit
def activated(x, activation: tl.constexpr):
    """Apply the activation with this number in `llmcli.kernels.cuda.support.ACTIVATIONS`."""
    if activation == 0:
        return x * tl.sigmoid(x)
    elif activation == 1:
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif activation == 2:
        return 0.5 * x * (1.0 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))
    elif activation == 3:
        return tl.maximum(x, 0.0)
    elif activation == 4:
        return tl.maximum(x, 0.0) * tl.maximum(x, 0.0)
    else:
        return x * tl.sigmoid(1.702 * x)


@triton.jit
def feed_forward(
    x, gate, up, gate_bias, up_bias, n, weight, bias, y, eps,
    size: tl.constexpr, norm: tl.constexpr, bits: tl.constexpr, group: tl.constexpr, gated: tl.constexpr,
    activation: tl.constexpr, has_bias: tl.constexpr, tokens: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
    operand: tl.constexpr, pdl: tl.constexpr,
):  # fmt: skip
    """`y = act(gate(norm(x))) * up(norm(x))`, or `act(up(norm(x)))`; `x` (M, K), `y` (M, n)."""
    let_next_start(pdl)
    block = tl.program_id(0)
    first = tile(up, block, n, 0, size, bits, group, rows, columns)
    if gated:
        first_of_gate = tile(gate, block, n, 0, size, bits, group, rows, columns)
    wait_for_previous(pdl)
    inverse, mean = statistics(x, eps, size, norm, tokens)
    row = block * rows + tl.arange(0, rows)[:, None]
    result = product(
        up, block, n, first, x, inverse, mean, weight, bias, size, norm, bits, group, tokens, rows, columns, operand
    )
    if has_bias:
        result += tl.load(up_bias + row, mask=row < n, other=0.0)
    if gated:
        opened = product(
            gate, block, n, first_of_gate, x, inverse, mean, weight, bias,
            size, norm, bits, group, tokens, rows, columns, operand,
        )  # fmt: skip
        if has_bias:
            opened += tl.load(gate_bias + row, mask=row < n, other=0.0)
        result *= activated(opened, activation)
    else:
        result = activated(result, activation)
    tl.store(y + tl.arange(0, tokens)[None, :] * n + row, result, mask=row < n)


@triton.jit
def add_normed(
    x, residual, weight, bias, y, eps,
    size: tl.constexpr, norm: tl.constexpr, block: tl.constexpr, pdl: tl.constexpr,
):  # fmt: skip
    """`y = residual + norm(x)`, all (M, K); one token for each program."""
    let_next_start(pdl)
    wait_for_previous(pdl)
    k = tl.arange(0, block)
    start = tl.program_id(0) * size
    value = tl.load(x + start + k, mask=k < size, other=0.0)
    if norm == LAYER_NORM:
        value = tl.where(k < size, value - tl.sum(value) / size, 0.0)
    value = value * tl.rsqrt(tl.sum(value * value) / size + eps) * tl.load(weight + k, mask=k < size, other=0.0)
    if norm != RMS_NORM:
        value += tl.load(bias + k, mask=k < size, other=0.0)
    tl.store(y + start + k, tl.load(residual + start + k, mask=k < size, other=0.0) + value, mask=k < size)


@triton.jit
def embed(
    ids, table, positions, state, y, factor,
    size: tl.constexpr, bits: tl.constexpr, group: tl.constexpr, learned: tl.constexpr, block: tl.constexpr,
    pdl: tl.constexpr,
):  # fmt: skip
    """Embedding of each of `ids` (M,), times `factor`, plus that of its position: `y` (M, K).

    `table` is dense, or words of packed blocks. `ids` beyond the number of tokens in `state` are padding; they get the
    position of the last token, because there may be no learned position after it.
    """
    let_next_start(pdl)
    wait_for_previous(pdl)
    token, k = tl.program_id(0), tl.arange(0, block)
    row = tl.load(ids + token)
    if bits == 0:
        value = tl.load(table + row * size + k, mask=k < size, other=0.0).to(tl.float32)
    else:
        value = wide_values(table, row, k, size, bits, group)
    value *= factor
    if learned:
        position = tl.load(state) + tl.minimum(token, tl.load(state + 1) - 1)
        value += tl.load(positions + position * size + k, mask=k < size, other=0.0).to(tl.float32)
    tl.store(y + token * size + k, value, mask=k < size)
