"""Rows of a matrix times the activations of a few tokens: the inside of every kernel that reads weights.

Weights are dense, or the packed blocks of `llmcli.model.packed`, read as they lie there: the model that is read by
people and the kernels share one copy. Activations are float32, sums too.

Notes. The floor of one token is the time in which its weights are read once (H100: 3.0 TB/s as measured by others).

- One token: products are kept apart in registers and summed across threads once, after the loop. Prediction: limited
  by memory, not by shuffles. Not yet measured on a GPU.
- Up to 16 tokens: tensor cores, with 16 columns whatever the number; reading costs the same. Prediction: 16 tokens cost
  about 5 % more than one. Not yet measured on a GPU.
- A packed code becomes a float without a conversion: its bits are put at the top of the mantissa of a number between 1
  and 2, which is exactly `1 + code / 16` (or 256), and what is too much is subtracted once for eight products. Three
  instructions a weight; converting integers has a quarter to a half of the throughput. Prediction: at 4 bits, 1.0 ms of
  arithmetic beside 1.5 ms of reading for 8 billion weights. Not yet measured on a GPU.
- Programmatic dependent launch: the first tile of weights is asked for before waiting for the kernel that makes the
  activations, every further one while its predecessor is multiplied. Prediction: hides most of the 2 us that a launch
  costs. Not yet measured on a GPU.

Dimension letters: N rows, K columns, M tokens (1 or 16), G groups of 32 columns, J words of a row in a group.
"""

import triton
import triton.language as tl

from llmcli.kernels.triton_activations import activations
from llmcli.kernels.triton_wide import wide_product, wide_tile


@triton.jit
def tile(
    w, block, n, at, size: tl.constexpr, bits: tl.constexpr, group: tl.constexpr, rows: tl.constexpr,
    columns: tl.constexpr,
):  # fmt: skip
    """Weights of row block `block` from column `at` on: (rows, columns), or with packed ones words (G, J, 16).

    `group` columns of packed ones share a scale; where that is not 32, they lie as in `triton_wide`.
    """
    block = block.to(tl.int64)
    if bits == 0:
        row = block * rows + tl.arange(0, rows)[:, None]
        k = at + tl.arange(0, columns)[None, :]
        return tl.load(w + row * size + k, mask=(row < n) & (k < size), other=0.0, eviction_policy="evict_first")
    elif group != 32:
        return wide_tile(w, block, n, at, size, bits, group, rows, columns)
    else:
        groups: tl.constexpr = (size + 31) // 32
        words: tl.constexpr = 80 if bits == 4 else 136
        group = at // 32 + tl.arange(0, columns // 32)[:, None]
        word = tl.arange(0, 16 * bits)[None, :]
        start = w + (block * groups + group) * words
        # All words of a block follow each other, so that a thread takes four at a time.
        loaded = tl.load(start + word, mask=group < groups, other=0, eviction_policy="evict_first")
        return tl.reshape(loaded, [columns // 32, bits, 16])


@triton.jit
def _coded(word, place: tl.constexpr, bits: tl.constexpr):
    """Code `place` of each word as float32: 1 + code / 16, or 1 + code / 256."""
    if bits == 4:
        shift: tl.constexpr = 8 * (place // 2) + 4 * (place % 2)
        if shift <= 19:
            field = word << (19 - shift)
        else:
            field = word >> (shift - 19)
        return ((field & 0x780000) | 0x3F800000).to(tl.float32, bitcast=True)
    else:
        if place < 2:
            field = word << (15 - 8 * place)
        else:
            field = word >> (8 * place - 15)
        return ((field & 0x7F8000) | 0x3F800000).to(tl.float32, bitcast=True)


@triton.jit
def _column(first, place: tl.constexpr, bits: tl.constexpr):
    """Of which column code `place` is, in a word whose first one is `first`."""
    if bits == 4:
        return first + 4 * (place % 2) + place // 2
    else:
        return first + place


@triton.jit
def _scales(w, block, at, size: tl.constexpr, bits: tl.constexpr, columns: tl.constexpr):
    """Factor and summand, both (G, 1, 16), that make a weight of what `_coded` gives."""
    groups: tl.constexpr = (size + 31) // 32
    halves: tl.constexpr = 160 if bits == 4 else 272
    group = at // 32 + tl.arange(0, columns // 32)[:, None, None]
    row = tl.arange(0, 16)[None, None, :]
    start = w.to(tl.pointer_type(tl.float16), bitcast=True) + (block.to(tl.int64) * groups + group) * halves
    scale = tl.load(start + 32 * bits + row, mask=group < groups, other=0.0).to(tl.float32)
    if bits == 4:
        minimum = tl.load(start + 32 * bits + 16 + row, mask=group < groups, other=0.0).to(tl.float32)
        return 16.0 * scale, minimum - 16.0 * scale
    else:
        return 256.0 * scale, -384.0 * scale


@triton.jit
def product(
    w, block, n, first, x, inverse, mean, weight, bias,
    size: tl.constexpr, norm: tl.constexpr, bits: tl.constexpr, group: tl.constexpr, tokens: tl.constexpr,
    rows: tl.constexpr, columns: tl.constexpr, operand: tl.constexpr,
):  # fmt: skip
    """Row block `block` of the matrix `w` (n, K) times the normalised activations `x` (M, K): (rows, M).

    `first` is its first tile; a packed block has 16 rows. Several tokens are multiplied in the type `operand`.
    """
    token = tl.arange(0, tokens)[None, :]
    total = tl.zeros([rows, tokens], tl.float32)
    current = first
    if bits == 0:
        if tokens == 1:
            apart = tl.zeros([rows, columns], tl.float32)
            for at in range(0, size, columns):
                following = tile(w, block, n, at + columns, size, bits, group, rows, columns)
                k = at + tl.arange(0, columns)[None, :]
                apart += current.to(tl.float32) * activations(x, 0, k, inverse, mean, weight, bias, size, norm)
                current = following
            total = tl.sum(apart, 1, keep_dims=True)
        else:
            for at in range(0, size, columns):
                following = tile(w, block, n, at + columns, size, bits, group, rows, columns)
                k = at + tl.arange(0, columns)[:, None]
                value = activations(x, token, k, inverse, mean, weight, bias, size, norm)
                total = tl.dot(current.to(operand), value.to(operand), total, input_precision="ieee")
                current = following
    elif group != 32:
        total = wide_product(
            w, block, n, first, x, inverse, mean, weight, bias,
            size, norm, bits, group, tokens, rows, columns, operand,
        )  # fmt: skip
    else:
        groups: tl.constexpr = columns // 32
        # A word holds all columns of one row that a lane of `columns // 32 * bits` lanes has.
        width: tl.constexpr = 32 // bits
        if tokens == 1:
            apart = tl.zeros([groups, bits, 16], tl.float32)
            start = 32 * tl.arange(0, groups)[:, None, None] + width * tl.arange(0, bits)[None, :, None]
            for at in range(0, size, columns):
                following = tile(w, block, n, at + columns, size, bits, group, rows, columns)
                factor, summand = _scales(w, block, at, size, bits, columns)
                coded = tl.zeros([groups, bits, 16], tl.float32)
                values = tl.zeros([groups, bits, 1], tl.float32)
                for place in tl.static_range(width):
                    k = _column(at + start, place, bits)
                    value = activations(x, 0, k, inverse, mean, weight, bias, size, norm)
                    coded += _coded(current, place, bits) * value
                    values += value
                apart += coded * factor + values * summand
                current = following
            total = tl.reshape(tl.sum(tl.sum(apart, 0), 0), [16, 1])
        else:
            lane = tl.arange(0, groups * bits)[:, None]
            start = 32 * (lane // bits) + width * (lane % bits)
            for at in range(0, size, columns):
                following = tile(w, block, n, at + columns, size, bits, group, rows, columns)
                factor, summand = _scales(w, block, at, size, bits, columns)
                for place in tl.static_range(width):
                    weights = _coded(current, place, bits) * factor + summand
                    weights = tl.reshape(tl.permute(weights, (2, 0, 1)), [16, groups * bits])
                    k = _column(at + start, place, bits)
                    value = activations(x, token, k, inverse, mean, weight, bias, size, norm)
                    total = tl.dot(weights.to(operand), value.to(operand), total, input_precision="ieee")
                current = following
    return total


@triton.jit
def tanh(x):
    """The hyperbolic tangent, to about 1e-7."""
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0
