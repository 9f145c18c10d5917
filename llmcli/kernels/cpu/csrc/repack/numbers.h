/* What the reader of each stored format gives: 32 columns of 16 rows as whole numbers with scales and minima. Included
   by the readers. Each function does one thing to all rows at a time, so that compilers vectorize it. */
#ifndef LLM_CPU_REPACK_NUMBERS_H
#define LLM_CPU_REPACK_NUMBERS_H

#include "../matmul/layout.h"
#include "../simd/half.h"

/* value = scale * number + minimum. Formats of 4 bits have numbers from 0 to 15, others signed bytes.

   Where there is a minimum, the product is exact in float32 (at most 24 bits), so that a fused multiply-add gives what
   torch computes in two steps. */
typedef struct {
    uint32_t fours[8][BLOCK_ROWS];                           /* four numbers each, the first lowest */
    float scale[2][BLOCK_ROWS], minimum[2][BLOCK_ROWS]; /* of each 16 columns */
} Numbers;

typedef const uint8_t *const *Rows; /* the addresses of BLOCK_ROWS rows */

/* The word at byte `at` of each row. */
INLINE void words_at(Rows rows, int64_t at, uint32_t *to) {
    for (int r = 0; r < BLOCK_ROWS; r++) memcpy(to + r, rows[r] + at, sizeof *to);
}

/* The float16 number at byte `at` of each row. */
INLINE void halves_at(Rows rows, int64_t at, float *to) {
    uint16_t halves[BLOCK_ROWS];
    for (int r = 0; r < BLOCK_ROWS; r++) memcpy(halves + r, rows[r] + at, sizeof *halves);
    from_halves(halves, to);
}

/* Fields of `bits` bits of 32 bytes: those that start at bit `shift`. */
INLINE void fields_at(Rows rows, int64_t at, int shift, int bits, Numbers *to) {
    const uint32_t mask = ((1u << bits) - 1) * 0x01010101;
    for (int i = 0; i < 8; i++) {
        words_at(rows, at + 4 * i, to->fours[i]);
        for (int r = 0; r < BLOCK_ROWS; r++) to->fours[i][r] = to->fours[i][r] >> shift & mask;
    }
}

/* 16 bytes: the lower nibbles are the first 16 columns. */
INLINE void nibbles_at(Rows rows, int64_t at, Numbers *to) {
    for (int i = 0; i < 4; i++) {
        uint32_t words[BLOCK_ROWS];
        words_at(rows, at + 4 * i, words);
        for (int r = 0; r < BLOCK_ROWS; r++) {
            to->fours[i][r] = words[r] & 0x0f0f0f0f;
            to->fours[i + 4][r] = words[r] >> 4 & 0x0f0f0f0f;
        }
    }
}

/* Add the fields of `bits` bits that start at bit `shift` of 32 bytes, as higher bits from `place` on. */
INLINE void add_fields(Rows rows, int64_t at, int shift, int bits, int place, Numbers *to) {
    const uint32_t mask = ((1u << bits) - 1) * 0x01010101;
    for (int i = 0; i < 8; i++) {
        uint32_t words[BLOCK_ROWS];
        words_at(rows, at + 4 * i, words);
        for (int r = 0; r < BLOCK_ROWS; r++) to->fours[i][r] |= (words[r] >> shift & mask) << place;
    }
}

/* Spread four bits to the lowest bits of four bytes. */
INLINE uint32_t spread_bits(uint32_t bits) { return (bits & 15) * 0x00204081 & 0x01010101; }

/* Add the bits of a word for 32 columns as fifth bits. */
INLINE void add_fifth_bits(Rows rows, int64_t at, Numbers *to) {
    uint32_t fifth[BLOCK_ROWS];
    words_at(rows, at, fifth);
    for (int i = 0; i < 8; i++)
        for (int r = 0; r < BLOCK_ROWS; r++) to->fours[i][r] |= spread_bits(fifth[r] >> 4 * i) << 4;
}

/* Subtract `offset`, from 0 to 128, from all numbers, which are not above 127: no byte borrows from the next. */
INLINE void subtract(int offset, Numbers *to) {
    const uint32_t added = (uint32_t)(128 - offset) * 0x01010101;
    for (int i = 0; i < 8; i++)
        for (int r = 0; r < BLOCK_ROWS; r++) to->fours[i][r] = (to->fours[i][r] + added) ^ 0x80808080;
}

/* Replace numbers of 4 bits by the levels they stand for. */
INLINE void look_up(const int8_t *levels, Numbers *to) {
    uint8_t *numbers = (uint8_t *)to->fours;
#ifdef USE_AVX512
    const __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)levels));
    for (int i = 0; i < 32 * BLOCK_ROWS; i += 64)
        _mm512_storeu_si512(numbers + i, _mm512_shuffle_epi8(table, _mm512_loadu_si512(numbers + i)));
#else
    for (int i = 0; i < 32 * BLOCK_ROWS; i++) numbers[i] = (uint8_t)levels[numbers[i]];
#endif
}

/* One scale for all 32 columns, and no minimum. */
INLINE void set_scale(const float *scale, Numbers *to) {
    for (int half = 0; half < 2; half++)
        for (int r = 0; r < BLOCK_ROWS; r++) {
            to->scale[half][r] = scale[r];
            to->minimum[half][r] = 0;
        }
}

INLINE void set_minimum(const float *minimum, Numbers *to) {
    for (int half = 0; half < 2; half++) memcpy(to->minimum[half], minimum, sizeof to->minimum[half]);
}

#endif
