/* The activations that matrices are multiplied with, and their quantization to 16 bits. For all callers of matmul.h. */
#ifndef LLM_CPU_MATMUL_INPUT_H
#define LLM_CPU_MATMUL_INPUT_H

#include "layout.h"
#include "../simd/vector.h"

/* The input of a matrix product: values of some tokens, also rounded to 16 bits by groups of 32 columns, to whole
   numbers up to 127 * 256. 8 bits would change the model: on the starter the mean KL divergence is 4e-3, and one token
   in 30 is no longer the most probable.

   Tokens are in tiles of 16, the last tile in the smallest power of two that holds the rest. Within a tile of n tokens
   the codes are ordered (groups, 8 fours of columns, n, 4), and the columns of each four 0, 2, 1, 3: AVX2 multiplies
   pairs of 16 bits, and the even and odd bytes of weights are extracted together. AVX-512 and NEON multiply the upper
   and the lower byte of the codes separately, ordered (groups, upper and lower, 8 fours of columns, n, 4). In both, the codes
   that one vector of weights is multiplied with, for all tokens, are contiguous. Scales are ordered (groups, n). */
typedef struct {
    float *rows;   /* (tokens, ld) */
    int64_t ld;
    Code *codes;
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

/* The codes of 32 columns of one token, before they are written to an Input. */
typedef struct {
#ifdef SPLIT_CODES
    int8_t upper[GROUP], lower[GROUP];
#else
    int16_t whole[GROUP];
#endif
} Rounded;

INLINE void set_rounded(Rounded *r, int i, vi v) {
#ifdef SPLIT_CODES
    vb high = __builtin_convertvector((v + 128) >> 8, vb), low = __builtin_convertvector(v, vb);
    memcpy(r->upper + i, &high, sizeof high);
    memcpy(r->lower + i, &low, sizeof low);
#else
    vs narrow = __builtin_convertvector(v, vs);
    memcpy(r->whole + i, &narrow, sizeof narrow);
#endif
}

/* Write the codes of a token of a tile of `width` tokens; `to` is the place of its first code. */
INLINE void write_rounded(const Rounded *r, Code *to, int width) {
#ifdef SPLIT_CODES
    if (width == 1) {
        memcpy(to, r->upper, sizeof r->upper);
        memcpy(to + sizeof r->upper, r->lower, sizeof r->lower);
    }
    for (int four = 0; width > 1 && four < GROUP / 4; four++) {
        memcpy(to + four * 4 * width, r->upper + 4 * four, 4);
        memcpy(to + (four + GROUP / 4) * 4 * width, r->lower + 4 * four, 4);
    }
#else
    for (const int16_t *four = r->whole; four < r->whole + GROUP; four += 4, to += 4 * width)
        to[0] = four[0], to[1] = four[2], to[2] = four[1], to[3] = four[3];
#endif
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
        Rounded rounded;
        vi sums = {0};
        for (int i = 0; i < GROUP; i += LANES) {
            /* Adding 1.5 * 2^23 rounds to the nearest whole number. */
            vi v = (vi)(load(p + i) * inverse + 12582912.0f) - 0x4b400000;
            sums += v;
            set_rounded(&rounded, i, v);
        }
        int32_t sum_of_codes = sum_int32(sums);
        int64_t at = base + (int64_t)g * width + place;
        write_rounded(&rounded, in->codes + (base + (int64_t)g * width) * INPUT_CODES + place * 4, width);
        in->scale[at] = scale;
        in->total[at] = scale * (float)sum_of_codes;
        in->shift[at] = -128 * sum_of_codes;
    }
}

#endif
