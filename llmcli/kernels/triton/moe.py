"""Mixture of experts: programs read the chosen experts' indices from device memory, so the host never waits for them.

Notes. Lower bound: reading the weights of the chosen experts once for each token (an expert of two tokens may be read
twice, the second time from the L2 cache). `linear` computes the router's logits, choosing takes one program for each
token, and the weighted sum over the chosen experts is part of the last product, in a fixed order. Prediction: four
launches instead of about fifteen in torch. Not yet measured on a GPU.

Dimension letters: M tokens, E experts, k experts chosen for each token, C hidden size, I size of an expert.
"""

import triton
import triton.language as tl

from llmcli.kernels.triton.gemv import product, tile
from llmcli.kernels.triton.linear import activated
from llmcli.kernels.triton.prologue import let_next_start, statistics, wait_for_previous

SOFTMAX = tl.constexpr(0)
SIGMOID = tl.constexpr(1)
SOFTMAX_OF_CHOSEN = tl.constexpr(2)


@triton.jit
def route(
    logits, selection_bias, chosen, weights, scale,
    count: tl.constexpr, taken: tl.constexpr, score: tl.constexpr, normalized: tl.constexpr, biased: tl.constexpr,
    block: tl.constexpr, most_taken: tl.constexpr, pdl: tl.constexpr,
):  # fmt: skip
    """Choose the experts of a token by router outputs `logits` (M, E): `chosen` and their `weights`, both (M, k)."""
    let_next_start(pdl)
    wait_for_previous(pdl)
    token = tl.program_id(0)
    expert, slot = tl.arange(0, block), tl.arange(0, most_taken)
    value = tl.load(logits + token * count + expert, mask=expert < count, other=float("-inf"))
    if score == SOFTMAX:
        value = tl.exp(value - tl.max(value))
        value = value / tl.sum(value)
    elif score == SIGMOID:
        value = tl.sigmoid(value)
    wanted = value
    if biased:
        wanted += tl.load(selection_bias + expert, mask=expert < count, other=0.0)
    wanted = tl.where(expert < count, wanted, float("-inf"))
    found = tl.full([most_taken], float("-inf"), tl.float32)
    for place in tl.static_range(taken):
        best = tl.argmax(wanted, 0)
        tl.store(chosen + token * taken + place, best)
        found = tl.where(slot == place, tl.sum(tl.where(expert == best, value, 0.0)), found)
        wanted = tl.where(expert == best, float("-inf"), wanted)
    if score == SOFTMAX_OF_CHOSEN:
        found = tl.exp(found - tl.max(found))
        found = found / tl.sum(found)
    elif score > SOFTMAX_OF_CHOSEN:
        found = tl.sigmoid(found)
    found = tl.where(slot < taken, found, 0.0)
    if normalized:
        found = found / (tl.sum(found) + 1e-20)
    tl.store(weights + token * taken + slot, found * scale, mask=slot < taken)


@triton.jit
def experts_in(
    x, chosen, weights, gate_up, gate_up_bias, weight, bias, y, eps, alpha, limit,
    size: tl.constexpr, inner: tl.constexpr, taken: tl.constexpr, norm: tl.constexpr, bits: tl.constexpr,
    group: tl.constexpr, activation: tl.constexpr, clamped: tl.constexpr, has_bias: tl.constexpr,
    scales_input: tl.constexpr, blocks: tl.constexpr, stride: tl.constexpr, rows: tl.constexpr,
    columns: tl.constexpr, pdl: tl.constexpr,
):  # fmt: skip
    """Gate, up and activation of each chosen expert: `y` (M k, I) from `x` (M, C); program (choice, row block).

    An expert's matrix has gate rows, then up rows; the next expert's begins `stride` elements later, in elements of
    dense weights or words of packed ones. The first `blocks` row blocks of a packed one are the gate.
    """
    let_next_start(pdl)
    slot, block = tl.program_id(0), tl.program_id(1)
    wait_for_previous(pdl)
    gate = gate_up + tl.load(chosen + slot).to(tl.int64) * stride
    start = x + slot // taken * size
    up = gate
    second, last = block + blocks, 2 * inner
    if bits == 0:
        up += inner * size
        second, last = block, inner
    first = tile(gate, block, inner, 0, size, bits, group, rows, columns)
    first_of_up = tile(up, second, last, 0, size, bits, group, rows, columns)
    inverse, mean = statistics(start, eps, size, norm, 1)
    opened = product(
        gate, block, inner, first, start, inverse, mean, weight, bias,
        size, norm, bits, group, 1, rows, columns, tl.float32,
    )  # fmt: skip
    result = product(
        up, second, last, first_of_up, start, inverse, mean, weight, bias,
        size, norm, bits, group, 1, rows, columns, tl.float32,
    )  # fmt: skip
    row = block * rows + tl.arange(0, rows)[:, None]
    if scales_input:
        factor = tl.load(weights + slot)
        opened *= factor
        result *= factor
    if has_bias:
        place = gate_up_bias + tl.load(chosen + slot) * 2 * inner + row
        opened += tl.load(place, mask=row < inner, other=0.0)
        result += tl.load(place + inner, mask=row < inner, other=0.0)
    if clamped:
        opened = tl.minimum(opened, limit)
        result = tl.minimum(tl.maximum(result, -limit), limit)
        result = (result + 1.0) * opened * tl.sigmoid(alpha * opened)
    else:
        result = activated(opened, activation) * result
    tl.store(y + slot * inner + row, result, mask=row < inner)


@triton.jit
def experts_out(
    x, chosen, weights, down, down_bias, residual, y, factor,
    size: tl.constexpr, n: tl.constexpr, taken: tl.constexpr, bits: tl.constexpr, group: tl.constexpr,
    has_bias: tl.constexpr, scales_input: tl.constexpr, has_residual: tl.constexpr, stride: tl.constexpr,
    rows: tl.constexpr, columns: tl.constexpr, pdl: tl.constexpr,
):  # fmt: skip
    """`y = residual + factor * sum(weight * down(x))` over a token's experts, (M, C); `x` (M k, I)."""
    let_next_start(pdl)
    token, block = tl.program_id(0), tl.program_id(1)
    row = block * rows + tl.arange(0, rows)[:, None]
    wait_for_previous(pdl)
    total = tl.zeros([rows, 1], tl.float32)
    for place in range(taken):
        slot = token * taken + place
        expert = tl.load(chosen + slot)
        w = down + expert.to(tl.int64) * stride
        first = tile(w, block, n, 0, size, bits, group, rows, columns)
        none = tl.zeros([1, 1], tl.float32)
        result = product(
            w, block, n, first, x + slot * size, none, none, x, x, size, 0, bits, group, 1, rows, columns, tl.float32
        )
        if has_bias:
            result += tl.load(down_bias + expert * n + row, mask=row < n, other=0.0)
        if not scales_input:
            result *= tl.load(weights + slot)
        total += result
    total *= factor
    if has_residual:
        total += tl.load(residual + token * n + row, mask=row < n, other=0.0)
    tl.store(y + token * n + row, total, mask=row < n)
