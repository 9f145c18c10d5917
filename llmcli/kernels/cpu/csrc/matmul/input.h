/* The activations that matrices are multiplied with, and their quantization to 16 bits. */
#ifndef LLM_CPU_MATMUL_INPUT_H
#define LLM_CPU_MATMUL_INPUT_H

#include "layout.h"
#include "../simd/vector.h"

/* What some tokens bring to a matrix: their values, and these rounded to 16 bits by groups of 32 columns: whole numbers
   up to 127 * 256, of which the upper and the lower byte are multiplied one after the other. With 8 bits the model would
   be another one: on the starter the mean KL divergence is 4e-3, and one token in 30 the most probable no more.

   Tokens are kept in tiles of 16, the last tile in the smallest power of two that holds the rest. Within a tile of n
   tokens the bytes lie as (groups, upper and lower, 8 fours of columns, n, 4): what one vector of weights is multiplied
   with for all tokens lies together. Scales lie as (groups, n). */
typedef struct {
    float *rows;   /* (tokens, ld) */
    int64_t ld;
    int8_t *codes;
    float *scale;  /* of each group */
    float *total;  /* scale times the sum of the numbers: what a minimum is multiplied with */
    int32_t *shift; /* -128 times the sum of the numbers: 8-bit weights are stored with 128 added */
    int32_t columns, groups, tokens;
} Input;

static void begin_input(Input *in, int tokens, int columns) {
    in->tokens = tokens;
    in->columns = columns;
    in->groups = (columns + GROUP - 1) / GROUP;
}

static inline int tile_width(int tokens, int tile) {
    int rest = tokens - tile * TILE, width = 1;
    if (rest >= TILE) return TILE;
    while (width < rest) width *= 2;
    return width;
}

/* Round groups `first` to `last` of a token to 16 bits. */
static void quantise(Input *in, int token, int first, int last) {
    int tile = token / TILE, place = token % TILE, width = tile_width(in->tokens, tile);
    const float *x = in->rows + token * in->ld;
    int64_t base = (int64_t)tile * TILE * in->groups;
    for (int g = first; g < last; g++) {
        float padded[GROUP];
        const float *p = x + g * GROUP;
        int count = in->columns - g * GROUP;
        if (count < GROUP) {
            memset(padded, 0, sizeof padded);
            memcpy(padded, p, (size_t)count * sizeof *p);
            p = padded;
        }
        /* The greatest magnitude, by its bits: these order numbers without a sign, and NaN above all. */
        vi most = {0};
        for (int i = 0; i < GROUP; i += LANES) {
            vi v = (vi)load(p + i) & 0x7fffffff;
            vi more = v > most;
            most = (v & more) | (most & ~more);
        }
        float limit = greatest_magnitude(most), scale = limit / 32512, inverse = limit > 0 ? 32512 / limit : 0;
        if (!(inverse < 3e38f)) inverse = 0; /* all but zero; where one is not a number the scale is none either */
        int8_t upper[GROUP], lower[GROUP];
        vi sums = {0};
        for (int i = 0; i < GROUP; i += LANES) {
            /* Adding 1.5 * 2^23 rounds to the nearest whole number. */
            vi v = (vi)(load(p + i) * inverse + 12582912.0f) - 0x4b400000;
            sums += v;
            vb high = __builtin_convertvector((v + 128) >> 8, vb), low = __builtin_convertvector(v, vb);
            memcpy(upper + i, &high, sizeof high);
            memcpy(lower + i, &low, sizeof low);
        }
        int32_t sum_of_codes = whole_sum(sums);
        int64_t at = base + (int64_t)g * width + place;
        int8_t *to = in->codes + (base + (int64_t)g * width) * CODES + place * 4;
        if (width == 1) {
            memcpy(to, upper, sizeof upper);
            memcpy(to + sizeof upper, lower, sizeof lower);
        }
        for (int four = 0; width > 1 && four < GROUP / 4; four++) {
            memcpy(to + four * 4 * width, upper + 4 * four, 4);
            memcpy(to + (four + GROUP / 4) * 4 * width, lower + 4 * four, 4);
        }
        in->scale[at] = scale;
        in->total[at] = scale * (float)sum_of_codes;
        in->shift[at] = -128 * sum_of_codes;
    }
}

#endif
