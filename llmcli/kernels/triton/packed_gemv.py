"""Products with packed weights in wide blocks, the GPU layout of `llmcli.model.quantized.layout`.

With 4 bits, 32 or 128 columns share a scale and a minimum; with 8 bits, 32 or 128 columns or a row share a scale.

Notes. Lower bound for one token: the time to read the weights once (H100: 3.0 TB/s, as measured by others): 1.4 ms for
the 4.1 GB of an 8B model in 4 bits with a head in 8, 1.6 ms with scales for 32 columns, and 2.5 ms for 7.5 GB in 8
bits. Instruction counts are those of the loop over a row's columns, with RMSNorm, in the machine code for compute
capability 9.0; an H100 issues 29e12 per second, summed over all threads. Not yet measured on a GPU.

- The bits of an integer n below 2^24, read as a float32, are exactly n times 2^-149: codes need neither conversion nor
  offset, and no shift but that of the upper byte. Activations are multiplied by a power of two that compensates for the
  code's place in the word, once for all rows, and the sums at the end; all intermediate values are far from the ends of
  the range, and denormal factors cost nothing. That is 3.9 instructions a weight in 4 bits and 3.8 in 8 in total (4.2
  with scales for groups of a row); 5.8 with codes at the top of the mantissa of 1 + code / 16. Prediction: 1.0 ms of
  arithmetic beside 1.4 ms of reading, in 4 bits.
- A thread has the same 8 (or 4) consecutive columns of 16 rows: it loads four activations at a time, and 12 loads serve
  128 weights in 4 bits. All columns are in one group, of 32 columns or of 128, and both cost the same. Alternatives:
  words of every 16th column take 28 loads, and with groups of 32 four scales each; blocks of 16 rows x 32 columns take
  98 loads for 64 weights, 8.8 instructions each, and two barriers. Prediction: loads wait for memory, not for the L1
  cache.
- A scale and a minimum are one word, so that those of 4 rows are one load too.
- Threads exchange nothing before the loop ends: no shared memory, no barrier.
- Bytes in flight: 3 TB/s at a latency of 0.8 us are 18 KB for each of 132 multiprocessors. A program of 4 warps loads 8
  KB at a time and one of 8 warps 16 KB; the latter are launched where a multiprocessor has fewer than four programs.
  Prediction: 80 % of the bandwidth in 8 bits, 65 % in 4.
- Scales of the next columns are loaded with their codes: otherwise each iteration would wait for memory.
- Columns are not split among programs: all but the smallest models have enough rows.
- Up to 16 tokens: tensor cores, for which codes are converted to the operands' type. Each warp has separate columns,
  whose sums are added at the end: four warps that share all columns would compute all products four times. The 16
  activations of a column are as many as its weights in 16 rows, so a program has up to 64 rows. Instructions a weight,
  in 4 bits: 7.8 with 64 rows, 9.0 with 32, 10.9 with 16 (8.2 without a norm); in 8 bits 7.9 to 12.5 (9.0 to 13.1 with
  scales for 32 columns). With 16 rows and shared columns it was 14 to 15. Prediction: 2.5 ms of arithmetic for an 8B
  model in 4 bits, so that 16 tokens cost twice as much as one, and in 8 bits 20 % more.

Dimension letters: N rows, B blocks of 4 rows, K columns, J words of a row, M tokens (1 or 16).
"""

import triton
import triton.language as tl

from llmcli.kernels.triton.prologue import activations

# The value of `_coded(...) * _raising(...)` for a code of 1. The bits of an integer n below 2^24, read as a float32,
# are n times 2^-149, mostly a denormal number; `_raising` multiplies by at most 2^100.
_UNIT = tl.constexpr(2.0**-49)


@triton.jit
def wide_tile(
    w, block, n, at, size: tl.constexpr, bits: tl.constexpr, group: tl.constexpr, rows: tl.constexpr,
    columns: tl.constexpr,
):  # fmt: skip
    """Load the words (B, J, 4) of row block `block`, from column `at` on."""
    of_row: tl.constexpr = _row_words(size, bits, group)
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
    """`gemv.product` for packed weights: (rows, M)."""
    words: tl.constexpr = columns * bits // 32
    apart = tl.zeros([rows // 4, words, 4], tl.float32)
    # Each of four warps has separate columns.
    parts: tl.constexpr = 4
    several = tl.zeros([parts, rows, tokens], tl.float32)
    current = first
    numbers = _numbers(w, block, n, 0, size, bits, group, rows, columns)
    for at in range(0, size, columns):
        following = wide_tile(w, block, n, at + columns, size, bits, group, rows, columns)
        following_numbers = _numbers(w, block, n, at + columns, size, bits, group, rows, columns)
        scale, minimum = _scale_and_minimum(numbers, bits, group)
        if tokens == 1:
            coded = tl.zeros([rows // 4, words, 4], tl.float32)
            values = tl.zeros([1, words, 1], tl.float32)
            for four in tl.static_range(0, 32 // bits, 4):
                k = at + tl.arange(0, words)[:, None] * (32 // bits) + four + tl.arange(0, 4)[None, :]
                value = activations(x, 0, k, inverse, mean, weight, bias, size, norm)
                each = _four(value)
                for place in tl.static_range(4):
                    one = each[place][None, :, None]
                    coded += _coded(current, four + place, bits) * (one * _raising(four + place, bits))
                    values += one
            values *= _UNIT
            if bits == 8:
                coded -= 128.0 * values
            apart += coded * scale
            if bits == 4:
                apart += values * minimum
        else:
            k = at + tl.arange(0, parts)[:, None, None] * (columns // parts) + tl.arange(0, columns // parts)[:, None]
            value = activations(x, tl.arange(0, tokens), k, inverse, mean, weight, bias, size, norm)
            # A row's scale is applied at the end, so that integers are multiplied, which no type rounds.
            summand = minimum if bits == 4 else -128.0 * scale
            weights = _weights(current, 0, scale / _UNIT, summand, bits, operand)
            if bits == 4:
                weights = tl.join(weights, _weights(current, 1, scale / _UNIT, summand, bits, operand))
            weights = tl.reshape(weights, [rows // 4, parts, words // parts, 4, 32 // bits])
            weights = tl.reshape(tl.permute(weights, (1, 0, 3, 2, 4)), [parts, rows, columns // parts])
            several = tl.dot(weights, value.to(operand), several, input_precision="ieee")
        current = following
        numbers = following_numbers
    if tokens == 1:
        total = tl.reshape(tl.sum(apart, 1), [rows, 1]) * (1.0 / _UNIT)
    else:
        total = tl.sum(several, 0)
    if group == 0:
        row = block * rows + tl.arange(0, rows)[:, None]
        total *= _scale_of_row(w, row, row < n, size, bits)
    return total


@triton.jit
def store_wide(
    w, block, n, at, y, size: tl.constexpr, bits: tl.constexpr, group: tl.constexpr, rows: tl.constexpr,
    columns: tl.constexpr,
):  # fmt: skip
    """Dequantize the tile of `wide_tile` into its place in the dense matrix `y` (n, K)."""
    words = wide_tile(w, block, n, at, size, bits, group, rows, columns)
    scale, minimum = _scale_and_minimum(_numbers(w, block, n, at, size, bits, group, rows, columns), bits, group)
    if bits == 4:
        weights = _weights(words, 0, scale / _UNIT, minimum, bits, tl.float32)
        weights = tl.join(weights, _weights(words, 1, scale / _UNIT, minimum, bits, tl.float32))
    else:
        # Subtract 128 before scaling, as torch does: a negative scale then makes zeros negative.
        weights = _weights(words, 0, 1.0 / _UNIT, -128.0, bits, tl.float32)
        if group:
            weights *= scale[:, :, :, None, None]
    weights = tl.reshape(weights, [rows // 4, columns * bits // 32, 4, 32 // bits])
    weights = tl.reshape(tl.permute(weights, (0, 2, 1, 3)), [rows, columns])
    row = block * rows + tl.arange(0, rows)[:, None]
    if group == 0:
        weights *= _scale_of_row(w, row, row < n, size, bits)
    k = at + tl.arange(0, columns)[None, :]
    tl.store(y + row.to(tl.int64) * size + k, weights.to(y.dtype.element_ty), mask=(row < n) & (k < size))


@triton.jit
def wide_values(w, row, k, size: tl.constexpr, bits: tl.constexpr, group: tl.constexpr):
    """Dequantize columns `k` of one row to float32; zero beyond the last column."""
    start = w + (row // 4).to(tl.int64) * _block_words(size, bits, group)
    word = tl.load(start + k * bits // 32 * 4 + row % 4, mask=k < size, other=0)
    code = (word >> k * bits % 32) & ((1 << bits) - 1)
    if bits == 4:
        number = tl.load(_tails(start, size, bits, group) + k // group * 4 + row % 4, mask=k < size, other=0)
        scale, minimum = _scale_and_minimum(number, bits, group)
        return code.to(tl.float32) * scale + minimum
    else:
        if group:
            halves = _tails(start, size, bits, group).to(tl.pointer_type(tl.float16), bitcast=True)
            scale = tl.load(halves + k // group * 4 + row % 4, mask=k < size, other=0.0).to(tl.float32)
        else:
            scale = _scale_of_row(w, row, True, size, bits)
        return tl.where(k < size, (code - 128).to(tl.float32) * scale, 0.0)


@triton.constexpr_function
def _row_words(size, bits, group):
    """Words of a row's codes, with the padding of the last group."""
    step = group or 32
    return (size + step - 1) // step * step * bits // 32


@triton.constexpr_function
def _block_words(size, bits, group):
    """Words of a block of 4 rows, codes, scales and minima, padded to 16 bytes."""
    groups = (size + group - 1) // group if group else 2
    return _row_words(size, bits, group) * 4 + (groups * 4 if bits == 4 else (groups * 2 + 3) // 4 * 4)


@triton.jit
def _tails(start, size: tl.constexpr, bits: tl.constexpr, group: tl.constexpr):
    """The address of the scales in blocks that begin at `start`."""
    return start + _row_words(size, bits, group) * 4


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
def _four(values):
    """Split (J, 4) into its four columns, each (J,), without moving values between threads."""
    even, odd = tl.split(tl.reshape(values, [values.shape[0], 2, 2]))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def _weights(words, odd: tl.constexpr, factor, summand, bits: tl.constexpr, operand: tl.constexpr):
    """Convert four codes of each word, with 4 bits every second one, to the type `operand`: (B, J, 4, 2, 2)."""
    step: tl.constexpr = 8 // bits
    first = _weight(words, odd, factor, summand, bits, operand)
    second = _weight(words, step + odd, factor, summand, bits, operand)
    third = _weight(words, 2 * step + odd, factor, summand, bits, operand)
    fourth = _weight(words, 3 * step + odd, factor, summand, bits, operand)
    return tl.join(tl.join(first, third), tl.join(second, fourth))


@triton.jit
def _weight(words, place: tl.constexpr, factor, summand, bits: tl.constexpr, operand: tl.constexpr):
    return (_coded(words, place, bits) * _raising(place, bits) * factor + summand).to(operand)


@triton.jit
def _numbers(
    w, block, n, at, size: tl.constexpr, bits: tl.constexpr, group: tl.constexpr, rows: tl.constexpr,
    columns: tl.constexpr,
):  # fmt: skip
    """Load the stored scale and minimum of each word, (B, J, 4): one 32-bit word, or for 8 bits only the scale."""
    if group:
        of_block = block.to(tl.int64) * (rows // 4) + tl.arange(0, rows // 4)[:, None, None]
        of_row = (at + tl.arange(0, columns * bits // 32)[None, :, None] * (32 // bits)) // group
        start = _tails(w + of_block * _block_words(size, bits, group), size, bits, group)
        if bits == 8:
            start = start.to(tl.pointer_type(tl.float16), bitcast=True)
        there = (of_block * 4 < n) & (of_row * group < size)
        return tl.load(start + of_row * 4 + tl.arange(0, 4)[None, None, :], mask=there, other=0)
    else:
        return 0


@triton.jit
def _scale_and_minimum(numbers, bits: tl.constexpr, group: tl.constexpr):
    """Convert the result of `_numbers` to float32: factor and summand of the codes; 1 and 0 where there is none."""
    if bits == 4:
        scale = numbers.to(tl.int16).to(tl.float16, bitcast=True)
        minimum = (numbers >> 16).to(tl.int16).to(tl.float16, bitcast=True)
        return scale.to(tl.float32), minimum.to(tl.float32)
    elif group:
        return numbers.to(tl.float32), 0.0
    else:
        return 1.0, 0.0


@triton.jit
def _scale_of_row(w, row, there, size: tl.constexpr, bits: tl.constexpr):
    start = w + (row // 4).to(tl.int64) * _block_words(size, bits, 0)
    return tl.load(_tails(start, size, bits, 0).to(tl.pointer_type(tl.float32), bitcast=True) + row % 4, mask=there)
