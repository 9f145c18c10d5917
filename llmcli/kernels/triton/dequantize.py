"""Dequantize packed weights, for products with many tokens, which cuBLAS computes fastest.

Notes. Lower bound: packed bytes read once and dense values written once, 2.53 bytes a weight from 4 bits to 16 and 3.0
from 8. Torch's operations move some 36: codes are unpacked, become float32, are scaled in place and then rounded.

- A program has 16 rows, and columns such that each of its 128 threads has 8 words. They are read 16 bytes at a time, by
  neighboring threads from neighboring addresses. A word holds neighboring columns, which are written 16 bytes at a time
  too.
- A code of at most 8 bits times a scale in half precision is exact in float32, so the result is the same whether the
  minimum is added by a fused instruction or a separate one. A row's float32 scale is multiplied and rounded once, and
  has no minimum. Then values are rounded to the nearest value of their type: bit for bit torch's result.
- 6.6 instructions a weight in 4 bits and 9 to 12 in 8, in the machine code for compute capability 9.0, which has no
  loops: 1.8 and 3.3 ms for 8 billion at 29e12 a second. Prediction: limited by memory, 7 ms for all matrices of an 8B
  model in 4 bits at 3 TB/s, once for each 2048 tokens of a prompt, beside 50 ms of products; torch takes 100 ms at the
  least.
- One kernel is compiled per format, columns and type: two or three a model, some 0.3 s each the first time, in the
  background. Not yet measured on a GPU.

Dimension letters: N rows, K columns.
"""

import triton
import triton.language as tl

from llmcli.kernels.triton.packed_gemv import store_wide


@triton.jit(do_not_specialize=["n"])
def unpack(
    w, n, y, size: tl.constexpr, bits: tl.constexpr, group: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    """Dequantize the wide blocks `w` into the rows `y` (n, K); program (row block, columns)."""
    block, at = tl.program_id(0), tl.program_id(1) * columns
    # Row blocks from `n` on may not be filled yet.
    if block * rows < n:
        store_wide(w, block, n, at, y, size, bits, group, rows, columns)
