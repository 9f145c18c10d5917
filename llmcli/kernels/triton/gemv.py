"""Rows of a matrix times the activations of a few tokens: the inner loop of every kernel that reads weights.

Weights are dense, or the packed blocks of `llmcli.model.quantized.matrix`, read in the same layout: the readable model
and the kernels share one copy. Activations and sums are float32.

Notes. Lower bound for one token: the time to read the weights once (H100: 3.0 TB/s as measured by others).

- One token: each thread keeps separate partial sums in registers, and threads add them once, after the loop.
  Prediction: limited by memory, not by shuffles. Not yet measured on a GPU.
- Up to 16 tokens: tensor cores, always with 16 columns of activations; reading costs the same for fewer. The 16
  activations of a column are as many as its weights in 16 rows, take twice their bytes in float32, and come from the L2
  cache. So a program has 64 rows, or 32, where the matrix has enough rows: 3.8 and 5.4 instructions a weight with the
  norm, 8.7 with 16 rows. Prediction: 16 tokens cost about 10 % more than one. Not yet measured on a GPU.
- Programmatic dependent launch: the first tile of weights is loaded before waiting for the kernel that computes the
  activations, each further one while its predecessor is multiplied. Prediction: hides most of the 2 us that a launch
  costs. Not yet measured on a GPU.

Dimension letters: N rows, K columns, M tokens (1 or 16).
"""

import triton
import triton.language as tl

from llmcli.kernels.triton.packed_gemv import wide_product, wide_tile
from llmcli.kernels.triton.prologue import activations


@triton.jit
def tile(
    w, block, n, at, size: tl.constexpr, bits: tl.constexpr, group: tl.constexpr, rows: tl.constexpr,
    columns: tl.constexpr,
):  # fmt: skip
    """Load a tile of row block `block` from column `at` on: dense weights (rows, columns), or packed words as in
    `packed_gemv`, where `group` columns share a scale.
    """
    block = block.to(tl.int64)
    if bits == 0:
        row = block * rows + tl.arange(0, rows)[:, None]
        k = at + tl.arange(0, columns)[None, :]
        return tl.load(w + row * size + k, mask=(row < n) & (k < size), other=0.0, eviction_policy="evict_first")
    else:
        return wide_tile(w, block, n, at, size, bits, group, rows, columns)


@triton.jit
def product(
    w, block, n, first, x, inverse, mean, weight, bias,
    size: tl.constexpr, norm: tl.constexpr, bits: tl.constexpr, group: tl.constexpr, tokens: tl.constexpr,
    rows: tl.constexpr, columns: tl.constexpr, operand: tl.constexpr,
):  # fmt: skip
    """Row block `block` of the matrix `w` (n, K) times the normalized activations `x` (M, K): (rows, M).

    `first` is its first tile, already loaded. Several tokens are multiplied in the type `operand`.
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
    else:
        total = wide_product(
            w, block, n, first, x, inverse, mean, weight, bias,
            size, norm, bits, group, tokens, rows, columns, operand,
        )  # fmt: skip
    return total


@triton.jit
def tanh(x):
    """Hyperbolic tangent, with an error of about 1e-7."""
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0
