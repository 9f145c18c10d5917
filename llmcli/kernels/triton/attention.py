"""Attention of up to 16 new tokens over the cache, with query and key norms, rotations and the cache update.

Queries and keys are normalized, rotated and cached in the prologue of attention rather than the epilogue of the
projections: a program there has some rows of a head, while norms and rotations need the whole head. So one kernel
handles every kind of norm without a further launch. No program reads a key that another has just written: new keys and
values are used directly from the projections' output, and are also stored in the cache.

Everything that changes between steps is in device memory, so that one captured graph serves every length and every
address of the cache: `state` is (position of the first token, tokens, first position of the rotations), and a layer's
row of `table` is (address of its keys, address of its values, their first position, positions allocated).

Notes. Lower bound: reading the visible keys and values once. All query heads of a kv head are rows of one product, so
each key is read once; positions are split among programs, since kv heads alone are too few for a GPU (Dao et al. 2023,
Flash-Decoding), and a second kernel combines their results. Programs beyond a short text end at once. Prediction: at
8192 tokens 85 % of the bandwidth, at 500 two launches. Not yet measured on a GPU.

Dimension letters: H query heads, K kv heads, D head size, M tokens, S splits, R rows: M tokens of each head of a group.
"""

import triton
import triton.language as tl

from llmcli.kernels.triton.gemv import tanh
from llmcli.kernels.triton.prologue import LAYER_NORM, let_next_start, wait_for_previous

EACH_HEAD = tl.constexpr(1)
ALL_HEADS = tl.constexpr(2)
ROTATED = tl.constexpr(3)


@triton.jit
def _normed(
    start, at, weight, bias, eps, clip, valid, mean, inverse,
    norm: tl.constexpr, kind: tl.constexpr, clipped: tl.constexpr, real: tl.constexpr,
):  # fmt: skip
    """Load, clip and normalize the values at offsets `at` (R, D) from addresses `start` (R, 1)."""
    value = tl.load(start + at, mask=valid, other=0.0)
    if norm == ALL_HEADS:
        if kind == LAYER_NORM:
            value -= mean
        value = value * inverse * tl.load(weight + at, mask=valid, other=0.0)
        value += tl.load(bias + at, mask=valid, other=0.0)
    if clipped:
        value = tl.minimum(tl.maximum(value, -clip), clip)
    if norm == EACH_HEAD:
        if kind == LAYER_NORM:
            value = tl.where(valid, value - tl.sum(value, 1, keep_dims=True) / real, 0.0)
        value *= tl.rsqrt(tl.sum(value * value, 1, keep_dims=True) / real + eps)
        value *= tl.load(weight + at, mask=valid, other=0.0)
        value += tl.load(bias + at, mask=valid, other=0.0)
    return value


@triton.jit
def _prepared(
    start, head, token, weight, bias, cos, sin, first_angle, eps, clip, present,
    norm: tl.constexpr, kind: tl.constexpr, clipped: tl.constexpr, heads: tl.constexpr, real: tl.constexpr,
    rotary: tl.constexpr, rows: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Queries or keys (R, D) of `head` (R, 1), normalized and rotated; `start` (R, 1) are their tokens' addresses."""
    d = tl.arange(0, block)[None, :]
    valid = present & (d < real)
    size: tl.constexpr = heads * real
    mean = tl.zeros([rows, 1], tl.float32)
    inverse = tl.zeros([rows, 1], tl.float32)
    if norm == ALL_HEADS:
        total = tl.zeros([rows, block], tl.float32)
        if kind == LAYER_NORM:
            for at in range(0, size, block):
                total += tl.load(start + at + d, mask=present & (at + d < size), other=0.0)
            mean = tl.sum(total, 1, keep_dims=True) / size
            total = tl.zeros([rows, block], tl.float32)
        for at in range(0, size, block):
            inside = present & (at + d < size)
            value = tl.where(inside, tl.load(start + at + d, mask=inside, other=0.0) - mean, 0.0)
            total += value * value
        inverse = tl.rsqrt(tl.sum(total, 1, keep_dims=True) / size + eps)
    value = _normed(start, head * real + d, weight, bias, eps, clip, valid, mean, inverse, norm, kind, clipped, real)
    if rotary > 0:
        half: tl.constexpr = rotary // 2
        other = tl.where(d < half, d + half, tl.where(d < rotary, d - half, d))
        partner = _normed(
            start, head * real + other, weight, bias, eps, clip, valid, mean, inverse, norm, kind, clipped, real
        )
        angle = first_angle * half + token * half + tl.where(d < half, d, d - half)
        turned = valid & (d < rotary)
        factor = tl.load(cos + angle, mask=turned, other=1.0)
        cross = tl.load(sin + angle, mask=turned, other=0.0)
        value = value * factor + tl.where(d < half, -partner, partner) * cross
    if norm == ROTATED:
        value *= tl.rsqrt(tl.sum(value * value, 1, keep_dims=True) / real + eps)
    return value


@triton.jit
def _scored(q, k, scale, softcap, seen, capped: tl.constexpr, operand: tl.constexpr):
    """Attention scores (R, keys), minus infinity where a key is not `seen`."""
    scores = tl.dot(q.to(operand), tl.trans(k).to(operand), input_precision="ieee") * scale
    if capped:
        scores = softcap * tanh(scores / softcap)
    return tl.where(seen, scores, float("-inf"))


@triton.jit
def _visible(key, position, window: tl.constexpr, chunk: tl.constexpr):
    """Whether the query at `position` (R, 1) sees `key` (1, keys)."""
    seen = key <= position
    if window > 0:
        seen = seen & (key > position - window)
    if chunk > 0:
        seen = seen & (key // chunk == position // chunk)
    return seen


@triton.jit
def _added(scores, v, most, total, mixed, operand: tl.constexpr):
    """Update the online softmax with more scores and values (Milakov & Gimelshein 2018, algorithm 3)."""
    now = tl.maximum(most, tl.max(scores, 1, keep_dims=True))
    base = tl.where(now == float("-inf"), 0.0, now)
    weights = tl.exp(scores - base)
    shrunk = tl.exp(most - base)
    total = total * shrunk + tl.sum(weights, 1, keep_dims=True)
    mixed = tl.dot(weights.to(operand), v.to(operand), mixed * shrunk, input_precision="ieee")
    return now, total, mixed


@triton.jit
def attend(
    qkv, table, state, q_weight, q_bias, k_weight, k_bias, cos, sin, parts, sums,
    eps, clip, scale, softcap, beta, interval, offset,
    heads: tl.constexpr, kv_heads: tl.constexpr, real: tl.constexpr, rotary: tl.constexpr, window: tl.constexpr,
    chunk: tl.constexpr, norm: tl.constexpr, kind: tl.constexpr, clipped: tl.constexpr, capped: tl.constexpr,
    scaled: tl.constexpr, tokens: tl.constexpr, splits: tl.constexpr, rows: tl.constexpr, fresh: tl.constexpr,
    keys: tl.constexpr, block: tl.constexpr, stored: tl.constexpr, operand: tl.constexpr, pdl: tl.constexpr,
):  # fmt: skip
    """Attention of the tokens `qkv` (M, (H + 2K) D) to each split of the positions; also caches their keys and values.

    Program (kv head, split, block of rows) writes unnormalized mixtures to `parts` (S, M, H, D), and the greatest
    score and the sum of exponentials to `sums` (S, M, H, 2). `block` and `fresh` are D and M, padded.
    """
    let_next_start(pdl)
    kv_head, split, row_block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group: tl.constexpr = heads // kv_heads
    width: tl.constexpr = (heads + 2 * kv_heads) * real
    row = row_block * rows + tl.arange(0, rows)[:, None]
    token, head = row % tokens, kv_head * group + row // tokens
    present = row < group * tokens
    d = tl.arange(0, block)[None, :]
    wait_for_previous(pdl)
    start, count = tl.load(state), tl.load(state + 1)
    angle = start - tl.load(state + 2)
    key_start = tl.load(table).to(tl.pointer_type(stored))
    value_start = tl.load(table + 1).to(tl.pointer_type(stored))
    first, capacity = tl.load(table + 2), tl.load(table + 3)
    key_start = tl.multiple_of(key_start, 16) + kv_head * capacity * real
    value_start = tl.multiple_of(value_start, 16) + kv_head * capacity * real
    position = start + token
    q = _prepared(
        qkv + token * width, head, token, q_weight, q_bias, cos, sin, angle, eps, clip, present,
        norm, kind, clipped, heads, real, rotary, rows, block,
    )  # fmt: skip
    if scaled:
        q *= 1.0 + beta * tl.log(1.0 + ((position + offset) // interval).to(tl.float32))
    most = tl.full([rows, 1], float("-inf"), tl.float32)
    total = tl.zeros([rows, 1], tl.float32)
    mixed = tl.zeros([rows, block], tl.float32)

    low = start * 0
    if window > 0:
        low = tl.maximum(start - window + 1, 0)
    if chunk > 0:
        low = start // chunk * chunk
    share = tl.cdiv(tl.cdiv(start - low, splits), keys) * keys
    end = tl.minimum(low + (split + 1) * share, start)
    for at in range(low + split * share, end, keys):
        key = at + tl.arange(0, keys)
        place = (key - first)[:, None] * real + d
        cached = (key < end)[:, None] & (d < real)
        k = tl.load(key_start + place, mask=cached, other=0.0)
        seen = _visible(key[None, :], position, window, chunk) & (key[None, :] < end)
        scores = _scored(q, k, scale, softcap, seen, capped, operand)
        v = tl.load(value_start + place, mask=cached, other=0.0)
        most, total, mixed = _added(scores, v, most, total, mixed, operand)

    if split == splits - 1:
        new = tl.arange(0, fresh)[:, None]
        given = new < tokens
        k = _prepared(
            qkv + new * width + heads * real, kv_head + 0 * new, new, k_weight, k_bias, cos, sin, angle, eps, clip,
            given, norm, kind, clipped, kv_heads, real, rotary, fresh, block,
        ).to(stored)  # fmt: skip
        v = tl.load(qkv + new * width + (heads + kv_heads + kv_head) * real + d, mask=given & (d < real), other=0.0)
        if clipped:
            v = tl.minimum(tl.maximum(v, -clip), clip)
        v = v.to(stored)
        if row_block == 0:
            place = (start - first + new) * real + d
            tl.store(key_start + place, k, mask=(new < count) & (d < real))
            tl.store(value_start + place, v, mask=(new < count) & (d < real))
        column = tl.arange(0, fresh)[None, :]
        seen = _visible(start + column, position, window, chunk) & (column < tokens)
        scores = _scored(q, k, scale, softcap, seen, capped, operand)
        most, total, mixed = _added(scores, v, most, total, mixed, operand)

    place = (split * tokens + token) * heads + head
    tl.store(parts + place * real + d, mixed, mask=present & (d < real))
    tl.store(sums + 2 * place, most, mask=present)
    tl.store(sums + 2 * place + 1, total, mask=present)


@triton.jit
def combine(
    parts, sums, sinks, y,
    heads: tl.constexpr, real: tl.constexpr, has_sinks: tl.constexpr, tokens: tl.constexpr, splits: tl.constexpr,
    most_splits: tl.constexpr, block: tl.constexpr, pdl: tl.constexpr,
):  # fmt: skip
    """Combine the results of all splits into `y` (M, H D); program (head, token). `sinks` (H,) are further scores."""
    let_next_start(pdl)
    wait_for_previous(pdl)
    head, token = tl.program_id(0), tl.program_id(1)
    split, d = tl.arange(0, most_splits)[:, None], tl.arange(0, block)[None, :]
    place = (split * tokens + token) * heads + head
    most = tl.load(sums + 2 * place, mask=split < splits, other=float("-inf"))
    total = tl.load(sums + 2 * place + 1, mask=split < splits, other=0.0)
    base = tl.max(most, 0, keep_dims=True)
    if has_sinks:
        sink = tl.load(sinks + head)
        base = tl.maximum(base, sink)
    factor = tl.exp(most - base)
    whole = tl.sum(total * factor, 0, keep_dims=True)
    if has_sinks:
        whole += tl.exp(sink - base)
    mixed = tl.load(parts + place * real + d, mask=(split < splits) & (d < real), other=0.0)
    mixed = tl.sum(mixed * factor, 0, keep_dims=True) / whole
    tl.store(y + (token * heads + head) * real + d, mixed, mask=d < real)
