"""Packed weights made dense, for products of so many tokens that tensor cores are best fed by cuBLAS.

Notes. Floor: packed bytes read once and dense values written once, 2.53 bytes a weight from 4 bits to 16 and 3.0 from
8. By operations of torch it is some 36: codes are taken apart, become float32, are scaled in place and then rounded.

- A program has 16 rows and the words of so many columns that each of its 128 threads has 8. They are read 16 bytes at a
  time, by neighbors side by side; what a word has are neighboring columns, and is written 16 bytes at a time too.
- A code of at most 8 bits times a scale in half precision is exact in float32, so that it is the same whether the
  minimum is added in the same instruction or in the next one. A row's scale in float32 is multiplied with and rounded
  once; there is no minimum. Then values are rounded to their type, to the nearest: bit for bit what torch gives.
- 6.6 instructions a weight in 4 bits and 9 to 12 in 8, in the machine code for compute capability 9.0, which has no
  loops: 1.8 and 3.3 ms for 8 billion at 29e12 a second. Prediction: limited by memory, 7 ms for all matrices of an 8B
  model in 4 bits at 3 TB/s, once for each 2048 tokens of a prompt, beside 50 ms of products; torch takes 100 ms at the
  least.
- What is compiled depends on format, columns and type: two or three kernels a model, some 0.3 s each the first time.
  That is not waited for. Nothing of this is measured on a GPU yet.

Dimension letters: N rows, K columns.
"""

import triton
import triton.language as tl

from llmcli.kernels.triton.packed_gemv import store_wide


@triton.jit(do_not_specialize=["n"])
def unpack(
    w, n, y, size: tl.constexpr, bits: tl.constexpr, group: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    """The dense rows `y` (n, K) of the wide blocks `w`; program (row block, columns)."""
    block, at = tl.program_id(0), tl.program_id(1) * columns
    # Blocks that are not filled yet are not looked at.
    if block * rows < n:
        store_wide(w, block, n, at, y, size, bits, group, rows, columns)
