/* The activations that matrices are multiplied with, and their quantization to 16 bits. For all callers of matmul.h. */
#ifndef LLM_CPU_MATMUL_INPUT_H
#define LLM_CPU_MATMUL_INPUT_H

#include "layout.h"
#include "../simd/vector.h"

/* The input of a matrix product: values of some tokens, also rounded to 16 bits by groups of 32 columns, to whole
   numbers up to 127 * 256, of which the upper and the lower byte are multiplied separately. 8 bits would change the
   model: on the starter the mean KL divergence is 4e-3, and one token in 30 is no longer the most probable.

   Tokens are in tiles of 16, the last tile in the smallest power of two that holds the rest. Within a tile of n tokens
   the bytes are ordered (groups, upper and lower, 8 fours of columns, n, 4): the codes that one vector of weights is
   multiplied with, for all tokens, are contiguous. Scales are ordered (groups, n). */
typedef struct {
    float *rows;   /* (tokens, ld) */
    int64_t ld;
    int8_t *codes;
    float *scale;  /* of each group */
    float *total;  /* scale times the sum of the codes: the factor of a minimum */
    int32_t *shift; /* -128 times the sum of the codes: 8-bit weights are stored with an offset of 128 */
    int32_t columns, groups, tokens;
} Input;

static void set_shape(Input *in, int tokens, int columns) {
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
static void quantize(Input *in, int token, int first, int last) {
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
        /* The greatest magnitude, by bits: as integers they order numbers without sign, with NaN above all. */
        vi most = {0};
        for (int i = 0; i < GROUP; i += LANES) {
            vi v = (vi)load(p + i) & 0x7fffffff;
            vi more = v > most;
            most = (v & more) | (most & ~more);
        }
        float limit = max_magnitude(most), scale = limit / 32512, inverse = limit > 0 ? 32512 / limit : 0;
        if (!(inverse < 3e38f)) inverse = 0; /* practically zero; for NaN the scale is NaN as well */
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
        int32_t sum_of_codes = sum_int32(sums);
        int64_t at = base + (int64_t)g * width + place;
        int8_t *to = in->codes + (base + (int64_t)g * width) * INPUT_CODES + place * 4;
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
