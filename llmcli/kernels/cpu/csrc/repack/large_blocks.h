/* Readers of the formats with blocks of 256 columns and scales for each 16 or 32: Q2_K to Q6_K and IQ4_XS. Layouts are
   those of ggml's `ggml-common.h`; checkpoint/tensors/ggml/blocks.py decodes the same with torch. Used by pack.h. */
#ifndef LLM_CPU_REPACK_LARGE_BLOCKS_H
#define LLM_CPU_REPACK_LARGE_BLOCKS_H

#include "small_blocks.h"

/* Group `g` of 32 columns of a row, in the block that starts at byte `at`, is `part` of the block's 8 groups. */
#define PLACE(bytes) \
    const int part = g % 8; \
    const int64_t at = (int64_t)(g / 8) * bytes

static void read_q2_k(Rows rows, int g, Numbers *to) {
    PLACE(84);
    float d[BLOCK_ROWS], m[BLOCK_ROWS];
    halves_at(rows, at + 80, d);
    halves_at(rows, at + 82, m);
    for (int half = 0; half < 2; half++)
        for (int r = 0; r < BLOCK_ROWS; r++) {
            const int both = rows[r][at + 2 * part + half];
            to->scale[half][r] = d[r] * (float)(both & 15);
            to->minimum[half][r] = -(m[r] * (float)(both >> 4));
        }
    fields_at(rows, at + 16 + part / 4 * 32, part % 4 * 2, 2, to);
}

/* The third bits come first; scales of 6 bits are in 12 bytes, their upper 2 bits in the last four. */
static void read_q3_k(Rows rows, int g, Numbers *to) {
    PLACE(110);
    float d[BLOCK_ROWS];
    halves_at(rows, at + 108, d);
    for (int half = 0; half < 2; half++) {
        const int j = 2 * part + half;
        for (int r = 0; r < BLOCK_ROWS; r++) {
            const uint8_t *s = rows[r] + at + 96;
            const int scale = (s[j % 8] >> j / 8 * 4 & 15) | (s[8 + j % 4] >> j / 4 * 2 & 3) << 4;
            to->scale[half][r] = d[r] * (float)(scale - 32);
            to->minimum[half][r] = 0;
        }
    }
    fields_at(rows, at + 32 + part / 4 * 32, part % 4 * 2, 2, to);
    add_fields(rows, at, part, 1, 2, to);
    subtract(4, to);
}

/* The scales and minima of Q4_K and Q5_K: 6 bits each, in 12 bytes after d and m. */
INLINE void read_scales_and_minima(Rows rows, int64_t at, int part, Numbers *to) {
    float d[BLOCK_ROWS], m[BLOCK_ROWS];
    halves_at(rows, at, d);
    halves_at(rows, at + 2, m);
    for (int r = 0; r < BLOCK_ROWS; r++) {
        const uint8_t *s = rows[r] + at + 4;
        const int scale = part < 4 ? s[part] & 63 : (s[part + 4] & 15) | s[part - 4] >> 6 << 4;
        const int minimum = part < 4 ? s[part + 4] & 63 : s[part + 4] >> 4 | s[part] >> 6 << 4;
        d[r] *= (float)scale;
        m[r] = -(m[r] * (float)minimum);
    }
    set_scale(d, to);
    set_minimum(m, to);
}

/* Of the 8 groups of a block two share 32 bytes; the first has the lower nibbles. */
static void read_q4_k(Rows rows, int g, Numbers *to) {
    PLACE(144);
    read_scales_and_minima(rows, at, part, to);
    fields_at(rows, at + 16 + part / 2 * 32, part % 2 * 4, 4, to);
}

static void read_q5_k(Rows rows, int g, Numbers *to) {
    PLACE(176);
    read_scales_and_minima(rows, at, part, to);
    fields_at(rows, at + 48 + part / 2 * 32, part % 2 * 4, 4, to);
    add_fields(rows, at + 16, part, 1, 4, to);
}

static void read_q6_k(Rows rows, int g, Numbers *to) {
    PLACE(210);
    float d[BLOCK_ROWS];
    halves_at(rows, at + 208, d);
    for (int half = 0; half < 2; half++)
        for (int r = 0; r < BLOCK_ROWS; r++) {
            to->scale[half][r] = d[r] * (float)(int8_t)rows[r][at + 192 + 2 * part + half];
            to->minimum[half][r] = 0;
        }
    fields_at(rows, at + part / 4 * 64 + part % 2 * 32, part % 4 / 2 * 4, 4, to);
    add_fields(rows, at + 128 + part / 4 * 32, part % 4 * 2, 2, 4, to);
    subtract(32, to);
}

static void read_iq4_xs(Rows rows, int g, Numbers *to) {
    PLACE(136);
    float scale[BLOCK_ROWS];
    halves_at(rows, at, scale);
    for (int r = 0; r < BLOCK_ROWS; r++) {
        const uint8_t *s = rows[r] + at + 2;
        const int bits = (s[2 + part / 2] >> part % 2 * 4 & 15) | (s[part / 4] >> part % 4 * 2 & 3) << 4;
        scale[r] *= (float)(bits - 32);
    }
    set_scale(scale, to);
    nibbles_at(rows, at + 8 + part * 16, to);
    look_up(IQ4_LEVELS, to);
}

#endif
