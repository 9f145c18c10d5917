/* Readers of the formats of 1 to 3 bits: ternary digits (TQ), and vectors of a grid with scales and signs (IQ). Layouts
   are those of ggml's `ggml-common.h`; checkpoint/tensors/ggml/low_bits.py decodes the same with torch, and has the
   grids. Used by pack.h. */
#ifndef LLM_CPU_REPACK_GRIDS_H
#define LLM_CPU_REPACK_GRIDS_H

#include "large_blocks.h"

/* Numbers from 0 to 2 for -1 to 1. */
INLINE void set_ternary_scale(Rows rows, int64_t at, Numbers *to) {
    read_scale(rows, at, to);
    for (int half = 0; half < 2; half++)
        for (int r = 0; r < BLOCK_ROWS; r++) to->minimum[half][r] = -to->scale[half][r];
}

static void read_tq2_0(Rows rows, int g, Numbers *to) {
    PLACE(66);
    set_ternary_scale(rows, at + 64, to);
    fields_at(rows, at + part / 4 * 32, part % 4 * 2, 2, to);
}

/* Digit `place` of four bytes, which are fractions of 256: multiplied by 3, what passes 256 is the first digit. */
INLINE uint32_t digits(uint32_t bytes, int place) {
    static const uint32_t powers[5] = {1, 3, 9, 27, 81};
    uint32_t found = 0;
    for (int k = 0; k < 32; k += 8) found |= (((bytes >> k & 255) * powers[place] & 255) * 3 >> 8) << k;
    return found;
}

/* 32 and 16 bytes of five digits, the first of all bytes before the second, and 4 bytes of four. */
static void read_tq1_0(Rows rows, int g, Numbers *to) {
    PLACE(54);
    set_ternary_scale(rows, at + 52, to);
    for (int i = 0; i < 8; i++) {
        const int word = 8 * part + i;
        int from, place;
        if (word < 40) from = word % 8 * 4, place = word / 8;
        else if (word < 60) from = 32 + word % 4 * 4, place = (word - 40) / 4;
        else from = 48, place = word - 60;
        uint32_t words[BLOCK_ROWS];
        words_at(rows, at + from, words);
        for (int r = 0; r < BLOCK_ROWS; r++) to->fours[i][r] = digits(words[r], place);
    }
}

/* A number of 8 or 4 bytes at a place that may not be aligned. */
INLINE uint32_t word_at(const uint8_t *at) {
    uint32_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

INLINE uint16_t half_word_at(const uint8_t *at) {
    uint16_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

/* Negate the bytes of `values`, from 1 to 127 each, whose bit in `signs` is set. */
INLINE uint64_t with_signs(uint64_t values, uint32_t signs) {
    const uint64_t all = 0x0101010101010101, chosen = (uint64_t)signs * all & 0x8040201008040201;
    const uint64_t ones = ((chosen + 0x7f * all) | chosen) >> 7 & all;
    return (values ^ ones * 255) + ones;
}

/* Seven bits of signs, with the eighth that makes the number of set bits even. */
INLINE uint32_t with_parity(uint32_t seven) {
    return seven | (uint32_t)__builtin_parity(seven) << 7;
}

/* Write the 8 numbers of vector `index` of four of row `r`. */
INLINE void set_vector(uint64_t values, int index, int r, Numbers *to) {
    to->fours[2 * index][r] = (uint32_t)values;
    to->fours[2 * index + 1][r] = (uint32_t)(values >> 32);
}

static void read_iq2_xxs(Rows rows, int g, const void *grid, Numbers *to) {
    PLACE(66);
    float scale[BLOCK_ROWS];
    halves_at(rows, at, scale);
    for (int r = 0; r < BLOCK_ROWS; r++) {
        const uint8_t *codes = rows[r] + at + 2 + 8 * part;
        const uint32_t word = word_at(codes + 4);
        for (int i = 0; i < 4; i++) {
            const uint32_t signs = with_parity(word >> 7 * i & 127);
            set_vector(with_signs(((const uint64_t *)grid)[codes[i]], signs), i, r, to);
        }
        scale[r] = scale[r] * ((float)(word >> 28) + 0.5f) * 0.25f;
    }
    set_scale(scale, to);
}

/* Two scales of 4 bits in the byte at `from` of each row. */
INLINE void set_two_scales(Rows rows, int64_t at, int64_t from, Numbers *to) {
    float d[BLOCK_ROWS];
    halves_at(rows, at, d);
    set_scale(d, to);
    for (int half = 0; half < 2; half++)
        for (int r = 0; r < BLOCK_ROWS; r++)
            to->scale[half][r] = d[r] * ((float)(rows[r][from] >> 4 * half & 15) + 0.5f) * 0.25f;
}

static void read_iq2_xs(Rows rows, int g, const void *grid, Numbers *to) {
    PLACE(74);
    set_two_scales(rows, at, at + 66 + part, to);
    for (int r = 0; r < BLOCK_ROWS; r++)
        for (int i = 0; i < 4; i++) {
            const uint32_t word = half_word_at(rows[r] + at + 2 + 8 * part + 2 * i);
            set_vector(with_signs(((const uint64_t *)grid)[word & 511], with_parity(word >> 9)), i, r, to);
        }
}

static void read_iq2_s(Rows rows, int g, const void *grid, Numbers *to) {
    PLACE(82);
    set_two_scales(rows, at, at + 74 + part, to);
    for (int r = 0; r < BLOCK_ROWS; r++) {
        const uint8_t *block = rows[r] + at;
        for (int i = 0; i < 4; i++) {
            const uint32_t code = block[2 + 4 * part + i] | (block[66 + part] >> 2 * i & 3u) << 8;
            set_vector(with_signs(((const uint64_t *)grid)[code], block[34 + 4 * part + i]), i, r, to);
        }
    }
}

/* Two vectors of 4 numbers. */
INLINE uint64_t two_fours(const void *grid, uint32_t first, uint32_t second) {
    const uint32_t *fours = grid;
    return fours[first] | (uint64_t)fours[second] << 32;
}

static void read_iq3_xxs(Rows rows, int g, const void *grid, Numbers *to) {
    PLACE(98);
    float scale[BLOCK_ROWS];
    halves_at(rows, at, scale);
    for (int r = 0; r < BLOCK_ROWS; r++) {
        const uint8_t *codes = rows[r] + at + 2 + 8 * part;
        const uint32_t word = word_at(rows[r] + at + 66 + 4 * part);
        for (int i = 0; i < 4; i++) {
            const uint64_t values = two_fours(grid, codes[2 * i], codes[2 * i + 1]);
            set_vector(with_signs(values, with_parity(word >> 7 * i & 127)), i, r, to);
        }
        scale[r] = scale[r] * ((float)(word >> 28) + 0.5f) * 0.5f;
    }
    set_scale(scale, to);
}

static void read_iq3_s(Rows rows, int g, const void *grid, Numbers *to) {
    PLACE(110);
    float scale[BLOCK_ROWS];
    halves_at(rows, at, scale);
    for (int r = 0; r < BLOCK_ROWS; r++) {
        const uint8_t *block = rows[r] + at, *codes = block + 2 + 8 * part;
        const uint32_t ninth = block[66 + part];
        for (int i = 0; i < 4; i++) {
            const uint32_t first = codes[2 * i] | (ninth >> 2 * i & 1) << 8;
            const uint32_t second = codes[2 * i + 1] | (ninth >> (2 * i + 1) & 1) << 8;
            set_vector(with_signs(two_fours(grid, first, second), block[74 + 4 * part + i]), i, r, to);
        }
        scale[r] *= (float)((block[106 + part / 2] >> part % 2 * 4 & 15) * 2 + 1);
    }
    set_scale(scale, to);
}

/* Multiply each signed byte by `factor` and add `shift`. */
INLINE uint64_t times_plus(uint64_t values, int factor, int shift) {
    int8_t numbers[8];
    memcpy(numbers, &values, sizeof numbers);
    for (int k = 0; k < 8; k++) numbers[k] = (int8_t)(factor * numbers[k] + shift);
    memcpy(&values, numbers, sizeof values);
    return values;
}

/* Numbers 0 to 2 for -1 to 1, all of them shifted by 1/8 up or down. */
static void read_iq1_s(Rows rows, int g, const void *grid, Numbers *to) {
    PLACE(50);
    float scale[BLOCK_ROWS], minimum[BLOCK_ROWS];
    halves_at(rows, at, scale);
    for (int r = 0; r < BLOCK_ROWS; r++) {
        const uint8_t *codes = rows[r] + at + 2 + 4 * part;
        const uint32_t upper = half_word_at(rows[r] + at + 34 + 2 * part);
        for (int i = 0; i < 4; i++) {
            const uint32_t code = codes[i] | (upper >> 3 * i & 7) << 8;
            set_vector(times_plus(((const uint64_t *)grid)[code], 1, 1), i, r, to);
        }
        const float eighth = scale[r] * (float)((upper >> 12 & 7) * 2 + 1) * 0.125f;
        scale[r] = eighth * 8;
        minimum[r] = eighth * (upper >> 15 ? -9.0f : -7.0f);
    }
    set_scale(scale, to);
    set_minimum(minimum, to);
}

/* Eight times -1, 0 or 1, and one more or less for each vector. */
static void read_iq1_m(Rows rows, int g, const void *grid, Numbers *to) {
    PLACE(56);
    uint16_t d[BLOCK_ROWS];
    float scale[BLOCK_ROWS];
    for (int r = 0; r < BLOCK_ROWS; r++) {
        d[r] = 0;
        for (int i = 0; i < 4; i++) d[r] |= (uint16_t)(rows[r][at + 49 + 2 * i] >> 4 << 4 * i);
    }
    from_halves(d, scale);
    set_scale(scale, to);
    for (int r = 0; r < BLOCK_ROWS; r++) {
        const uint8_t *block = rows[r] + at;
        const uint32_t scales = (uint32_t)half_word_at(block + 48 + part / 2 * 2) >> part % 2 * 6;
        for (int half = 0; half < 2; half++)
            to->scale[half][r] = scale[r] * (float)((scales >> 3 * half & 7) * 2 + 1) * 0.125f;
        for (int i = 0; i < 4; i++) {
            const int j = 4 * part + i;
            const uint32_t upper = block[32 + j / 2] >> j % 2 * 4 & 15;
            const uint64_t values = ((const uint64_t *)grid)[block[j] | (upper & 7) << 8];
            set_vector(times_plus(values, 8, upper >> 3 ? -1 : 1), i, r, to);
        }
    }
}

#endif
