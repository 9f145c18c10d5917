/* Readers of the formats with blocks of 32 columns: Q4_0 to Q8_0, IQ4_NL and MXFP4. Layouts are those of ggml's
   `ggml-common.h`; checkpoint/tensors/ggml/blocks.py decodes the same with torch. Used by pack.h. */
#ifndef LLM_CPU_REPACK_SMALL_BLOCKS_H
#define LLM_CPU_REPACK_SMALL_BLOCKS_H

#include "numbers.h"

/* The levels of IQ4_NL and IQ4_XS, and those of MXFP4, doubled so that they are whole. */
static const int8_t IQ4_LEVELS[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const int8_t FP4_LEVELS[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

INLINE void read_scale(Rows rows, int64_t at, Numbers *to) {
    float scale[BLOCK_ROWS];
    halves_at(rows, at, scale);
    set_scale(scale, to);
}

INLINE void read_minimum(Rows rows, int64_t at, Numbers *to) {
    float minimum[BLOCK_ROWS];
    halves_at(rows, at, minimum);
    set_minimum(minimum, to);
}

static void read_q4_0(Rows rows, int g, Numbers *to) {
    const int64_t at = (int64_t)g * 18;
    float minimum[BLOCK_ROWS];
    read_scale(rows, at, to);
    nibbles_at(rows, at + 2, to);
    for (int r = 0; r < BLOCK_ROWS; r++) minimum[r] = to->scale[0][r] * -8;
    set_minimum(minimum, to);
}

static void read_q4_1(Rows rows, int g, Numbers *to) {
    const int64_t at = (int64_t)g * 20;
    read_scale(rows, at, to);
    read_minimum(rows, at + 2, to);
    nibbles_at(rows, at + 4, to);
}

static void read_q5_0(Rows rows, int g, Numbers *to) {
    const int64_t at = (int64_t)g * 22;
    read_scale(rows, at, to);
    nibbles_at(rows, at + 6, to);
    add_fifth_bits(rows, at + 2, to);
    subtract(16, to);
}

static void read_q5_1(Rows rows, int g, Numbers *to) {
    const int64_t at = (int64_t)g * 24;
    read_scale(rows, at, to);
    read_minimum(rows, at + 2, to);
    nibbles_at(rows, at + 8, to);
    add_fifth_bits(rows, at + 4, to);
}

static void read_q8_0(Rows rows, int g, Numbers *to) {
    const int64_t at = (int64_t)g * 34;
    read_scale(rows, at, to);
    for (int i = 0; i < 8; i++) words_at(rows, at + 2 + 4 * i, to->fours[i]);
}

static void read_iq4_nl(Rows rows, int g, Numbers *to) {
    const int64_t at = (int64_t)g * 18;
    read_scale(rows, at, to);
    nibbles_at(rows, at + 2, to);
    look_up(IQ4_LEVELS, to);
}

/* The scale is half a power of two, 2^(e - 128), because the levels are doubled. */
static void read_mxfp4(Rows rows, int g, Numbers *to) {
    const int64_t at = (int64_t)g * 17;
    float scale[BLOCK_ROWS];
    for (int r = 0; r < BLOCK_ROWS; r++) {
        const uint32_t e = rows[r][at], bits = e < 2 ? 0x200000u << e : (e - 1) << 23;
        memcpy(scale + r, &bits, sizeof bits);
    }
    set_scale(scale, to);
    nibbles_at(rows, at + 1, to);
    look_up(FP4_LEVELS, to);
}

#endif
