"""Packed weights as a GPU reads them fastest: scales (in 4 bits minima too) for 128 columns, or in 8 bits for a row.

How they lie in memory is told in `llmcli.model.packed_format`.

Notes. The floor of one token is the time in which its weights are read once (H100: 3.0 TB/s, as measured by others):
1.4 ms for the 4.1 GB of an 8B model in 4 bits with a head of 8, and 2.5 ms for 7.5 GB in 8 bits. Instructions are those
of the loop over a row's columns, with RMSNorm, in the machine code that the compiler makes for compute capability 9.0;
an H100 issues 29e12 in a second, those of all threads together. Nothing of this is measured on a GPU yet.

- A whole number below 2^24, taken for a float32, is as many times 2^-149, exactly: codes need neither conversion nor
  offset, and no shift but that of the upper byte. Activations are multiplied by a power of two that makes up for the
  place of the code, once for all rows, and the sums at the end; all between is far from the ends of the range, and
  denormal factors cost nothing. That is 3.9 instructions a weight in 4 bits and 3.7 in 8, all told (4.2 with scales
  for 128 columns); 5.8 with codes at the top of the mantissa of 1 + code / 16. Prediction: 1.0 ms of arithmetic beside
  1.4 ms of reading, in 4 bits.
- A thread has the same 8 (or 4) columns of 16 rows, and neighbouring threads read neighbouring activations: 28 loads
  serve 128 weights in 4 bits. In blocks of 16 rows x 32 columns 98 loads serve 64, at 8.8 instructions a weight, and
  two barriers; the loads alone would take 3 ms. Prediction: loads wait for memory, not for the first cache.
- Nothing is exchanged between threads before the loop ends: no shared memory, no barrier.
- Bytes in flight: 3 TB/s at a latency of 0.8 us are 18 KB for each of 132 processors. A program of 4 warps asks for 8
  KB at a time and one of 8 warps for 16 KB; those are launched where a processor has fewer than four. Prediction: 80 %
  of the bandwidth in 8 bits, 65 % in 4.
- Scales of the next columns are asked for with the codes: else each round would wait for memory.
- Columns are not split among programs: all but the smallest models have rows enough.
- Up to 16 tokens: tensor cores, for which codes become numbers of the operands' type. Prediction: 5 to 10 % more than
  one token in 8 bits; in 4, where arithmetic weighs more, 20 %.

Dimension letters: N rows, B blocks of 4 rows, K columns, J words of a row, M tokens (1 or 16).
"""

import triton
import triton.language as tl

from llmcli.kernels.triton_activations import activations

# The bits of a whole number below 2^24 are a float32 of so many times 2^-149, nearly all of them denormal.
_UNIT = tl.constexpr(2.0**-49)


@triton.jit
def wide_tile(
    w, block, n, at, size: tl.constexpr, bits: tl.constexpr, group: tl.constexpr, rows: tl.constexpr,
    columns: tl.constexpr,
):  # fmt: skip
    """Words (B, J, 4) of rows `block * rows` and on, from column `at` on."""
    of_row: tl.constexpr = (size + 127) // 128 * 4 * bits
    of_block = block.to(tl.int64) * (rows // 4) + tl.arange(0, rows // 4)[:, None, None]
    word = at * bits // 32 + tl.arange(0, columns * bits // 32)[None, :, None]
    place = w + of_block * _block_words(size, bits, group) + word * 4 + tl.arange(0, 4)[None, None, :]
    there = (of_block * 4 < n) & (word < of_row)
    return tl.load(place, mask=there, other=0, eviction_policy="evict_first")


@triton.jit
def wide_product(
    w, block, n, first, x, inverse, mean, weight, bias,
    size: tl.constexpr, norm: tl.constexpr, bits: tl.constexpr, group: tl.constexpr, tokens: tl.constexpr,
    rows: tl.constexpr, columns: tl.constexpr, operand: tl.constexpr,
):  # fmt: skip
    """As `triton_product.product`: (rows, M)."""
    words: tl.constexpr = columns * bits // 32
    apart = tl.zeros([rows // 4, words, 4], tl.float32)
    total = tl.zeros([rows, tokens], tl.float32)
    token = tl.arange(0, tokens)[None, :]
    current = first
    scale, minimum = _scales(w, block, n, 0, size, bits, group, rows, columns)
    for at in range(0, size, columns):
        following = wide_tile(w, block, n, at + columns, size, bits, group, rows, columns)
        following_scale, following_minimum = _scales(w, block, n, at + columns, size, bits, group, rows, columns)
        if tokens == 1:
            coded = tl.zeros([rows // 4, words, 4], tl.float32)
            values = tl.zeros([1, words, 1], tl.float32)
            for place in tl.static_range(32 // bits):
                k = _columns(at, place, words, bits)[None, :, None]
                value = activations(x, 0, k, inverse, mean, weight, bias, size, norm)
                coded += _coded(current, place, bits) * (value * _raising(place, bits))
                values += value
            values *= _UNIT
            if bits == 8:
                coded -= 128.0 * values
            apart += coded * scale.to(tl.float32) if group else coded
            if bits == 4:
                apart += values * minimum.to(tl.float32)
        else:
            for place in tl.static_range(32 // bits):
                weights = _coded(current, place, bits) * _raising(place, bits) * (1.0 / _UNIT)
                # A row's scale is left for the end, so that whole numbers are multiplied, which no type rounds.
                if bits == 8:
                    weights -= 128.0
                if group:
                    weights *= scale.to(tl.float32)
                if bits == 4:
                    weights += minimum.to(tl.float32)
                weights = tl.reshape(tl.permute(weights, (0, 2, 1)), [rows, words])
                k = _columns(at, place, words, bits)[:, None]
                value = activations(x, token, k, inverse, mean, weight, bias, size, norm)
                total = tl.dot(weights.to(operand), value.to(operand), total, input_precision="ieee")
        current = following
        scale, minimum = following_scale, following_minimum
    if tokens == 1:
        total = tl.reshape(tl.sum(apart, 1), [rows, 1]) * (1.0 / _UNIT)
    if group == 0:
        row = block * rows + tl.arange(0, rows)[:, None]
        total *= _scale_of_row(w, row, row < n, size, bits)
    return total


@triton.jit
def wide_values(w, row, k, size: tl.constexpr, bits: tl.constexpr, group: tl.constexpr):
    """Columns `k` of one row, in float32; zero beyond the last."""
    of_group: tl.constexpr = 4 * bits
    start = w + (row // 4).to(tl.int64) * _block_words(size, bits, group)
    word = k // 128 * of_group + k % of_group
    shift = k % 128 // of_group * bits
    code = (tl.load(start + word * 4 + row % 4, mask=k < size, other=0) >> shift) & ((1 << bits) - 1)
    if group:
        halves = (
            _tails(start, size, bits).to(tl.pointer_type(tl.float16), bitcast=True)
            + k // group * (32 // bits)
            + row % 4
        )
        scale = tl.load(halves, mask=k < size, other=0.0).to(tl.float32)
        if bits == 8:
            return (code - 128).to(tl.float32) * scale
        else:
            return code.to(tl.float32) * scale + tl.load(halves + 4, mask=k < size, other=0.0).to(tl.float32)
    else:
        return tl.where(k < size, (code - 128).to(tl.float32) * _scale_of_row(w, row, True, size, bits), 0.0)


@triton.constexpr_function
def _block_words(size, bits, group):
    """Of 4 rows, in whole 16 bytes: their codes, then scales and minima in half precision, or 4 scales in float32."""
    groups = (size + 127) // 128
    tail = groups * (4 if bits == 4 else 2) if group else 4
    return groups * 16 * bits + (tail + 3) // 4 * 4


@triton.jit
def _tails(start, size: tl.constexpr, bits: tl.constexpr):
    """Where the scales of blocks are that begin at `start`."""
    return start + (size + 127) // 128 * 16 * bits


@triton.jit
def _columns(at, place: tl.constexpr, words: tl.constexpr, bits: tl.constexpr):
    """Of which columns code `place` of words is, from column `at` on: neighbours in neighbouring words."""
    word = tl.arange(0, words)
    return at + word // (4 * bits) * 128 + place * (4 * bits) + word % (4 * bits)


@triton.jit
def _coded(words, place: tl.constexpr, bits: tl.constexpr):
    """Code `place` of each word as a tiny float32: times `_raising`, it is `_UNIT` for each 1."""
    if place * bits < 24:
        field = words & (((1 << bits) - 1) << (place * bits))
    else:
        field = (words >> 24 & 255) & (((1 << bits) - 1) << (place * bits - 24))
    return field.to(tl.float32, bitcast=True)


@triton.constexpr_function
def _raising(place, bits):
    return 2.0 ** (100 - place * bits % 24)


@triton.jit
def _scales(
    w, block, n, at, size: tl.constexpr, bits: tl.constexpr, group: tl.constexpr, rows: tl.constexpr,
    columns: tl.constexpr,
):  # fmt: skip
    """Scale and minimum of each word, (B, J, 4); ones where rows have scales, or no minima."""
    ones = tl.full([1, 1, 1], 1.0, tl.float16)
    if group:
        of_block = block.to(tl.int64) * (rows // 4) + tl.arange(0, rows // 4)[:, None, None]
        of_row = (at + tl.arange(0, columns * bits // 32)[None, :, None] * (32 // bits)) // group
        start = _tails(w + of_block * _block_words(size, bits, group), size, bits)
        halves = (
            start.to(tl.pointer_type(tl.float16), bitcast=True) + of_row * (32 // bits) + tl.arange(0, 4)[None, None, :]
        )
        there = (of_block * 4 < n) & (of_row * group < size)
        scale = tl.load(halves, mask=there, other=0.0)
        return scale, tl.load(halves + 4, mask=there, other=0.0) if bits == 4 else ones
    else:
        return ones, ones


@triton.jit
def _scale_of_row(w, row, there, size: tl.constexpr, bits: tl.constexpr):
    start = w + (row // 4).to(tl.int64) * _block_words(size, bits, 0)
    return tl.load(_tails(start, size, bits).to(tl.pointer_type(tl.float32), bitcast=True) + row % 4, mask=there)
