/* Matrices times a few tokens: every weight is read, and decoded, once for up to 16 tokens. */
#ifndef LLM_CPU_MATMUL_H
#define LLM_CPU_MATMUL_H

#include "scale_compression.h"
#include "simd.h"
#include "abi.h"

enum { TILE = 16, GROUP = 32, CODES = 64, BLOCK_ROWS = 16 };

/* Of 32 columns of a row block: codes of 4 bits, or halves of codes of 8, and scales without minima. */
enum { NIBBLES = 256, SCALES = 32 };

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

/* 8-bit weights can be multiplied with a single token without most of their lower nibbles: where `doubts` are given, these
   are read of groups whose doubt is 0, and taken for their mean in the others. Behind the sums then stands by how much
   each may be off: the root of the sum, over the other groups, of the squared scale times the doubt (cpu_screen.h). */
#define MEAN_NIBBLE 7.5f

INLINE int is_read_whole(const float *doubts, int g) { return !doubts || doubts[g] == 0; }

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

/* How far ahead weights are asked for, in bytes; of two places that are read side by side half as far each. On Intel's
   processors into the first cache (measured on Cascade Lake: a twentieth faster), elsewhere into the second: the first can
   wait for too few lines at a time (measured on Zen 4: a tenth slower). */
enum { AHEAD = 7168, HALF_AHEAD = AHEAD / 2 };
#ifdef LLM_INTEL
enum { ASKED_INTO = 3 };
#else
enum { ASKED_INTO = 2 };
#endif

/* Where row blocks lie from one on, and their rest, which is NULL where it is not read. */
typedef struct {
    const char *near, *rest;
} Place;

/* How a matrix and its rest are read, and how far ahead it is asked for. */
typedef struct {
    Outlook near, rest;
    int64_t ahead;
} Course;

INLINE int64_t number_bytes(int format, int groups) {
    return round_up((int64_t)groups * (format == PACKED4 ? NUMBER_BYTES : SCALES), 64);
}

INLINE int64_t near_bytes(int format, int groups) { return number_bytes(format, groups) + (int64_t)groups * NIBBLES; }

INLINE int64_t rest_bytes(int format, int groups) {
    return (int64_t)groups * (format == PACKED4 ? REST_BYTES : NIBBLES);
}

INLINE void ask_for_lines(const char *from, Outlook o, const int lines) {
    if (from >= o.end && o.next) from = o.next + (from - o.end);
#pragma GCC unroll 5
    for (int line = 0; line < lines; line++) __builtin_prefetch(from + 64 * line, 0, ASKED_INTO);
}

/* Ask for what lies behind group `g` of the row block that begins at `near`, whose numbers come first: as much further
   on as has been read up to the group. In whole lines: to ask for one twice in a row was a tenth to a third slower. */
INLINE void ask_for_near(const int format, const uint8_t *near, int g, const Course *c) {
    const char *from = (const char *)near + c->ahead;
    if (format == PACKED4) /* 304 bytes of a group */
        ask_for_lines(from + 5 * 64 * g, c->near, 5);
    else if (g % 2 == 0) /* 288 bytes */
        ask_for_lines(from + 9 * 32 * g, c->near, 5);
    else
        ask_for_lines(from + 9 * 32 * g + 32, c->near, 4);
}

/* Of 8 bits: all of the rest, or of the next row block what is not doubted. */
INLINE void ask_for_rest(const uint8_t *rest, int g, int groups, const float *doubts, const Course *c) {
    if (!doubts)
        ask_for_lines((const char *)rest + NIBBLES * g + HALF_AHEAD, c->rest, 4);
    else if (is_read_whole(doubts, g))
        ask_for_lines((const char *)rest + NIBBLES * (groups + g), c->rest, 4);
}

/* Packed weights of a row block: `bases` are those of its numbers, with 4 bits. */
typedef struct {
    const uint8_t *numbers, *codes, *rest;
    uint32_t bases;
} Weights;

/* One block row of packed weights times a tile of n tokens: sums[token * 16 + row]. */
#ifdef USE_AVX512

INLINE __m512i four_columns(const int8_t *codes) {
    int32_t four;
    memcpy(&four, codes, 4);
    return _mm512_set1_epi32(four);
}

/* Products of 32 columns with `count` tokens from the t-th of n on: upper bytes, times 256, and lower bytes. With fewer
   than four tokens every second vector of `q` may be 2^odd times what it stands for. */
INLINE void multiply_group(const __m512i q[8], const int8_t *codes, const int n, const int t, const int count,
                           const int odd, __m512i *dots) {
    /* One instruction must wait four cycles for another's sum: so there are always four sums on their way. */
    if (count >= 4) {
        for (int i = 0; i < count; i++) dots[i] = _mm512_setzero_si512();
#pragma GCC unroll 16
        for (int j = 0; j < 16; j++) {
#pragma GCC unroll 4
            for (int i = 0; i < count; i++) {
                if (j == 8) dots[i] = _mm512_slli_epi32(dots[i], 8);
                dots[i] = _mm512_dpbusd_epi32(dots[i], q[j % 8], four_columns(codes + 4 * (j * n + t + i)));
            }
        }
        return;
    }
#pragma GCC unroll 2
    for (int i = 0; i < count; i++) {
        __m512i sums[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(),
                           _mm512_setzero_si512()};
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            const int8_t *at = codes + 4 * (j * n + t + i);
            sums[j % 2] = _mm512_dpbusd_epi32(sums[j % 2], q[j], four_columns(at));
            sums[2 + j % 2] = _mm512_dpbusd_epi32(sums[2 + j % 2], q[j], four_columns(at + 32 * n));
        }
        if (odd) {
            sums[1] = _mm512_slli_epi32(sums[1], 8 - odd);
            sums[0] = _mm512_add_epi32(_mm512_slli_epi32(sums[0], 8), sums[1]);
            sums[3] = _mm512_srai_epi32(sums[3], odd);
        } else {
            sums[0] = _mm512_slli_epi32(_mm512_add_epi32(sums[0], sums[1]), 8);
        }
        dots[i] = _mm512_add_epi32(sums[0], _mm512_add_epi32(sums[2], sums[3]));
    }
}

INLINE void packed4_tile(Weights w, int groups, const int8_t *codes, const float *scale, const float *total, const int n,
                         float *sums, const Course *course) {
    const __m512i low = _mm512_set1_epi8(15);
    /* For few tokens it takes less to shift sums than to shift codes. */
    const int step = n < 4 ? n : 4, odd = n < 4 ? 4 : 0;
    __m512 acc[TILE];
    for (int t = 0; t < n; t++) acc[t] = _mm512_setzero_ps();
    for (int g = 0; g < groups; g++) {
        __m512i q[8];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m512i both = _mm512_loadu_si512(w.codes + NIBBLES * g + 64 * j);
            q[2 * j] = _mm512_and_si512(both, low);
            q[2 * j + 1] = odd ? _mm512_andnot_si512(low, both) : _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
        }
        Numbers numbers = numbers_of(w.numbers + NUMBER_BYTES * g, w.rest + REST_BYTES * g, w.bases, 0);
        ask_for_near(PACKED4, w.numbers, g, course);
#pragma GCC unroll 4
        for (int t = 0; t < n; t += step) {
            __m512i dots[4];
            multiply_group(q, codes, n, t, step, odd, dots);
#pragma GCC unroll 4
            for (int i = 0; i < step; i++) {
                __m512 factor = _mm512_mul_ps((__m512)numbers.scale, _mm512_set1_ps(scale[t + i]));
                acc[t + i] = _mm512_fmadd_ps((__m512)numbers.minimum, _mm512_set1_ps(total[t + i]), acc[t + i]);
                acc[t + i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[i]), factor, acc[t + i]);
            }
        }
        codes += CODES * n, scale += n, total += n;
    }
    for (int t = 0; t < n; t++) _mm512_storeu_ps(sums + t * BLOCK_ROWS, acc[t]);
}

/* Codes of 8 bits out of their nibbles; without the lower ones, where `lower` is NULL. */
INLINE void join_nibbles(const uint8_t *upper, const uint8_t *lower, __m512i q[8]) {
    const __m512i mask = _mm512_set1_epi8(15);
    enum { THIRD_PICKS_SECOND = 0xd8 };
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m512i u = _mm512_loadu_si512(upper + 64 * j), l = lower ? _mm512_loadu_si512(lower + 64 * j) : u;
        const __m512i even = _mm512_slli_epi16(u, 4);
        if (lower) {
            q[2 * j] = _mm512_ternarylogic_epi32(even, l, mask, THIRD_PICKS_SECOND);
            q[2 * j + 1] = _mm512_ternarylogic_epi32(u, _mm512_srli_epi16(l, 4), mask, THIRD_PICKS_SECOND);
        } else {
            q[2 * j] = _mm512_andnot_si512(mask, even);
            q[2 * j + 1] = _mm512_andnot_si512(mask, u);
        }
    }
}

INLINE void packed8_tile(Weights w, int groups, const int8_t *codes, const float *scale, const float *total,
                         const int32_t *shift, const int n, float *sums, const float *doubts, const Course *course) {
    const int step = n < 4 ? n : 4;
    __m512 acc[TILE], doubt = _mm512_setzero_ps();
    for (int t = 0; t < n; t++) acc[t] = _mm512_setzero_ps();
    for (int g = 0; g < groups; g++) {
        const int is_whole = is_read_whole(doubts, g);
        __m512i q[8];
        if (is_whole)
            join_nibbles(w.codes + NIBBLES * g, w.rest + NIBBLES * g, q);
        else
            join_nibbles(w.codes + NIBBLES * g, NULL, q);
        __m512 d = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(w.numbers + SCALES * g)));
        ask_for_near(PACKED8, w.numbers, g, course);
        ask_for_rest(w.rest, g, groups, doubts, course);
#pragma GCC unroll 4
        for (int t = 0; t < n; t += step) {
            __m512i dots[4];
            multiply_group(q, codes, n, t, step, 0, dots);
#pragma GCC unroll 4
            for (int i = 0; i < step; i++) {
                __m512i dot = _mm512_add_epi32(dots[i], _mm512_set1_epi32(shift[t + i]));
                __m512 factor = _mm512_mul_ps(d, _mm512_set1_ps(scale[t + i]));
                acc[t + i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), factor, acc[t + i]);
            }
        }
        if (!is_whole) {
            acc[0] = _mm512_fmadd_ps(d, _mm512_set1_ps(MEAN_NIBBLE * total[0]), acc[0]);
            doubt = _mm512_fmadd_ps(_mm512_mul_ps(d, d), _mm512_set1_ps(doubts[g]), doubt);
        }
        codes += CODES * n, scale += n, total += n, shift += n;
    }
    for (int t = 0; t < n; t++) _mm512_storeu_ps(sums + t * BLOCK_ROWS, acc[t]);
    if (doubts) _mm512_storeu_ps(sums + BLOCK_ROWS, _mm512_sqrt_ps(doubt));
}

#elif defined(USE_AVX2)

INLINE __m256i four_columns(const int8_t *codes) {
    int32_t four;
    memcpy(&four, codes, 4);
    return _mm256_set1_epi32(four);
}

INLINE void packed4_tile(Weights w, int groups, const int8_t *codes, const float *scale, const float *total, const int n,
                         float *sums, const Course *course) {
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    for (int half = 0; half < 2; half++) {
        __m256 acc[TILE];
        for (int t = 0; t < n; t++) acc[t] = _mm256_setzero_ps();
        for (int g = 0; g < groups; g++) {
            const int8_t *c = codes + (int64_t)g * CODES * n;
            const uint8_t *block = w.codes + NIBBLES * g + 32 * half, *at = w.numbers + NUMBER_BYTES * g;
            Numbers numbers = numbers_of(at, w.rest + REST_BYTES * g, w.bases, 8 * half);
            if (half == 0) ask_for_near(PACKED4, w.numbers, g, course);
            for (int t = 0; t < n; t++) {
                /* 16 bits hold eight sums of two products: 16 * 15 * 128 < 2^15. */
                __m256i pairs[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
                for (int j = 0; j < 4; j++) {
                    __m256i both = _mm256_loadu_si256((const __m256i *)(block + 64 * j));
                    __m256i q[2] = {_mm256_and_si256(both, low), _mm256_and_si256(_mm256_srli_epi16(both, 4), low)};
                    for (int i = 0; i < 4; i++) {
                        const int8_t *from = c + 4 * ((2 * j + i % 2 + i / 2 * 8) * n + t);
                        pairs[i / 2] = _mm256_add_epi16(pairs[i / 2], _mm256_maddubs_epi16(q[i % 2], four_columns(from)));
                    }
                }
                __m256i upper = _mm256_slli_epi32(_mm256_madd_epi16(pairs[0], ones), 8);
                __m256 dot = _mm256_cvtepi32_ps(_mm256_add_epi32(upper, _mm256_madd_epi16(pairs[1], ones)));
                acc[t] = _mm256_fmadd_ps(dot, _mm256_mul_ps((__m256)numbers.scale, _mm256_set1_ps(scale[g * n + t])), acc[t]);
                acc[t] = _mm256_fmadd_ps((__m256)numbers.minimum, _mm256_set1_ps(total[g * n + t]), acc[t]);
            }
        }
        for (int t = 0; t < n; t++) _mm256_storeu_ps(sums + t * BLOCK_ROWS + 8 * half, acc[t]);
    }
}

INLINE void packed8_tile(Weights w, int groups, const int8_t *codes, const float *scale, const float *total,
                         const int32_t *shift, const int n, float *sums, const float *doubts, const Course *course) {
    const __m256i even = _mm256_set1_epi16(255), low = _mm256_set1_epi8(15), high = _mm256_set1_epi8(-16);
    for (int half = 0; half < 2; half++) {
        __m256 acc[TILE], doubt = _mm256_setzero_ps();
        for (int t = 0; t < n; t++) acc[t] = _mm256_setzero_ps();
        for (int g = 0; g < groups; g++) {
            const int8_t *c = codes + (int64_t)g * CODES * n;
            const uint8_t *scales = w.numbers + SCALES * g + 16 * half;
            const int is_whole = is_read_whole(doubts, g);
            __m256 d = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)scales));
            __m256i q[8];
            if (half == 0) {
                ask_for_near(PACKED8, w.numbers, g, course);
                ask_for_rest(w.rest, g, groups, doubts, course);
            }
            for (int j = 0; j < 4; j++) {
                __m256i u = _mm256_loadu_si256((const __m256i *)(w.codes + NIBBLES * g + 64 * j + 32 * half));
                q[2 * j] = _mm256_and_si256(_mm256_slli_epi16(u, 4), high);
                q[2 * j + 1] = _mm256_and_si256(u, high);
                if (!is_whole) continue;
                __m256i l = _mm256_loadu_si256((const __m256i *)(w.rest + NIBBLES * g + 64 * j + 32 * half));
                q[2 * j] = _mm256_or_si256(q[2 * j], _mm256_and_si256(l, low));
                q[2 * j + 1] = _mm256_or_si256(q[2 * j + 1], _mm256_and_si256(_mm256_srli_epi16(l, 4), low));
            }
            for (int t = 0; t < n; t++) {
                __m256i dot = _mm256_setzero_si256();
                for (int j = 0; j < 16; j++) {
                    /* Products of 8 bits by 8 would not fit 16: columns 0 and 2 apart from 1 and 3, in 16 bits each. */
                    __m256i a = four_columns(c + 4 * (j * n + t));
                    __m256i a02 = _mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8), a13 = _mm256_srai_epi16(a, 8);
                    dot = _mm256_add_epi32(dot, _mm256_madd_epi16(_mm256_and_si256(q[j % 8], even), a02));
                    dot = _mm256_add_epi32(dot, _mm256_madd_epi16(_mm256_srli_epi16(q[j % 8], 8), a13));
                    if (j == 7) dot = _mm256_slli_epi32(dot, 8);
                }
                dot = _mm256_add_epi32(dot, _mm256_set1_epi32(shift[g * n + t]));
                __m256 product = _mm256_mul_ps(d, _mm256_set1_ps(scale[g * n + t]));
                acc[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), product, acc[t]);
            }
            if (is_whole) continue;
            acc[0] = _mm256_fmadd_ps(d, _mm256_set1_ps(MEAN_NIBBLE * total[g]), acc[0]);
            doubt = _mm256_fmadd_ps(_mm256_mul_ps(d, d), _mm256_set1_ps(doubts[g]), doubt);
        }
        for (int t = 0; t < n; t++) _mm256_storeu_ps(sums + t * BLOCK_ROWS + 8 * half, acc[t]);
        if (doubts) _mm256_storeu_ps(sums + BLOCK_ROWS + 8 * half, _mm256_sqrt_ps(doubt));
    }
}

#else

/* Codes of 4 bits, of which the lower nibbles are the even vectors, each multiplied with `worth`, are added. */
INLINE void add_nibbles(const uint8_t *from, int worth, uint8_t q[8][64]) {
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 64; i++) q[j][i] = (uint8_t)(q[j][i] + (from[64 * (j / 2) + i] >> 4 * (j % 2) & 15) * worth);
}

INLINE void portable_tile(Weights w, int groups, const int8_t *codes, const float *scale, const float *total,
                          const int32_t *shift, const int n, float *sums, const int bits, const float *doubts) {
    float doubt[BLOCK_ROWS] = {0};
    memset(sums, 0, (size_t)n * BLOCK_ROWS * sizeof *sums);
    for (int g = 0; g < groups; g++) {
        const uint8_t *numbers = w.numbers + (bits == 8 ? SCALES : NUMBER_BYTES) * g;
        const int is_whole = is_read_whole(doubts, g);
        uint8_t q[8][64] = {{0}};
        float d[BLOCK_ROWS], m[BLOCK_ROWS] = {0};
        add_nibbles(w.codes + NIBBLES * g, bits == 8 ? 16 : 1, q);
        if (bits == 8 && is_whole) add_nibbles(w.rest + NIBBLES * g, 1, q);
        for (int r = 0; r < BLOCK_ROWS; r++) {
            uint16_t scale_bits, minimum;
            if (bits == 8) {
                memcpy(&scale_bits, numbers + 2 * r, 2);
                d[r] = from_half(scale_bits);
                m[r] = is_whole ? 0 : MEAN_NIBBLE * d[r];
                if (!is_whole) doubt[r] += d[r] * d[r] * doubts[g];
                continue;
            }
            join_numbers(numbers, w.rest + REST_BYTES * g, r, &scale_bits, &minimum);
            d[r] = from_half(scale_bits);
            m[r] = from_half(minimum);
        }
        for (int t = 0; t < n; t++) {
            int32_t dot[BLOCK_ROWS];
            for (int r = 0; r < BLOCK_ROWS; r++) dot[r] = bits == 8 ? shift[g * n + t] : 0;
            for (int j = 0; j < 8; j++) {
                const int8_t *upper = codes + (int64_t)g * CODES * n + 4 * (j * n + t), *lower = upper + 32 * n;
                int32_t a[4];
                for (int i = 0; i < 4; i++) a[i] = upper[i] * 256 + lower[i];
                for (int r = 0; r < BLOCK_ROWS; r++)
                    dot[r] += q[j][4 * r] * a[0] + q[j][4 * r + 1] * a[1] + q[j][4 * r + 2] * a[2] + q[j][4 * r + 3] * a[3];
            }
            for (int r = 0; r < BLOCK_ROWS; r++) {
                float add = (float)dot[r] * (d[r] * scale[g * n + t]);
                sums[t * BLOCK_ROWS + r] += bits == 8 && is_whole ? add : add + m[r] * total[g * n + t];
            }
        }
    }
    for (int r = 0; r < BLOCK_ROWS && doubts; r++) sums[BLOCK_ROWS + r] = sqrtf(doubt[r]);
}

INLINE void packed4_tile(Weights w, int groups, const int8_t *codes, const float *scale, const float *total, const int n,
                         float *sums, const Course *course) {
    (void)course;
    portable_tile(w, groups, codes, scale, total, NULL, n, sums, 4, NULL);
}

INLINE void packed8_tile(Weights w, int groups, const int8_t *codes, const float *scale, const float *total,
                         const int32_t *shift, const int n, float *sums, const float *doubts, const Course *course) {
    (void)course;
    portable_tile(w, groups, codes, scale, total, shift, n, sums, 8, doubts);
}

#endif

static void packed_tile(Weights w, int format, const Input *in, int tile, int width, float *sums,
                        const Course *course) {
    int64_t at = (int64_t)tile * TILE * in->groups;
    const int8_t *codes = in->codes + at * CODES;
    const float *scale = in->scale + at, *total = in->total + at;
    const int32_t *shift = in->shift + at;
    /* The width is a constant in each of these, so that the sums stay in registers. */
#define FOR_WIDTH(n)                                                                    \
    case n:                                                                             \
        if (format == PACKED4)                                                          \
            packed4_tile(w, in->groups, codes, scale, total, n, sums, course);          \
        else                                                                            \
            packed8_tile(w, in->groups, codes, scale, total, shift, n, sums, NULL, course); \
        break;
    switch (width) {
        FOR_WIDTH(1)
        FOR_WIDTH(2)
        FOR_WIDTH(4)
        FOR_WIDTH(8)
        FOR_WIDTH(16)
    }
#undef FOR_WIDTH
}

/* r rows of dense weights times n tokens. */
INLINE void dense_block(const char *w, int64_t row_bytes, const int bf16, const float *x, int64_t ld, int columns,
                        const int r, const int n, float *sums) {
    vf acc[4][4];
    for (int i = 0; i < r; i++)
        for (int t = 0; t < n; t++) acc[i][t] = (vf){0};
    int c = 0;
    for (; c + LANES <= columns; c += LANES) {
        vf weights[4];
#pragma GCC unroll 4
        for (int i = 0; i < r; i++)
            weights[i] = bf16 ? load_bf16((const uint16_t *)(w + i * row_bytes) + c)
                              : load((const float *)(w + i * row_bytes) + c);
#pragma GCC unroll 4
        for (int t = 0; t < n; t++) {
            vf values = load(x + t * ld + c);
#pragma GCC unroll 4
            for (int i = 0; i < r; i++) acc[i][t] += weights[i] * values;
        }
    }
    for (int i = 0; i < r; i++)
        for (int t = 0; t < n; t++) {
            float total = sum(acc[i][t]);
            for (int j = c; j < columns; j++)
                total += x[t * ld + j] * (bf16 ? from_bf16(((const uint16_t *)(w + i * row_bytes))[j])
                                               : ((const float *)(w + i * row_bytes))[j]);
            sums[t * BLOCK_ROWS + i] = total;
        }
}

static void dense_rows(const char *w, int64_t row_bytes, int bf16, const float *x, int64_t ld, int columns, int rows,
                       int tokens, float *sums) {
    for (int i = 0; i < rows; i += 4) {
        for (int t = 0; t < tokens; t += 4) {
            const char *from = w + i * row_bytes;
            const float *of = x + t * ld;
            float *to = sums + t * BLOCK_ROWS + i;
            int r = rows - i < 4 ? rows - i : 4, n = tokens - t < 4 ? tokens - t : 4;
#define FOR_SIZE(a, b)                                                                   \
    if (r == a && n == b) {                                                              \
        if (bf16)                                                                        \
            dense_block(from, row_bytes, 1, of, ld, columns, a, b, to);                  \
        else                                                                             \
            dense_block(from, row_bytes, 0, of, ld, columns, a, b, to);                  \
        continue;                                                                        \
    }
            FOR_SIZE(4, 4)
            FOR_SIZE(4, 3)
            FOR_SIZE(4, 2)
            FOR_SIZE(4, 1)
#undef FOR_SIZE
            for (int a = 0; a < r; a++)
                for (int b = 0; b < n; b++)
                    dense_block(from + a * row_bytes, row_bytes, bf16, of + b * ld, ld, columns, 1, 1,
                                to + b * BLOCK_ROWS + a);
        }
    }
}

static inline int row_blocks(const Matrix *m) { return (m->rows + BLOCK_ROWS - 1) / BLOCK_ROWS; }

static inline int groups_of(const Matrix *m) { return (m->columns + GROUP - 1) / GROUP; }

/* Without the rest. */
static inline int64_t block_bytes(const Matrix *m) {
    if (m->format >= PACKED4) return near_bytes(m->format, groups_of(m));
    return (int64_t)m->columns * BLOCK_ROWS * (m->format == BFLOAT16 ? 2 : 4);
}

/* How many rows a block row has that are not padding. */
static inline int rows_in(const Matrix *m, int64_t block) {
    int64_t rows = m->rows - block * BLOCK_ROWS;
    return rows < BLOCK_ROWS ? (int)rows : BLOCK_ROWS;
}

/* Where a block row of matrix `index` of a stack begins. */
static inline const char *block_at(const Matrix *m, int index, int64_t block) {
    return (const char *)m->data + index * m->stride + block * block_bytes(m);
}

static inline const uint8_t *rest_at(const Matrix *m, int index, int64_t block) {
    return (const uint8_t *)m->rest + (index * (int64_t)row_blocks(m) + block) * rest_bytes(m->format, groups_of(m));
}

/* What is read of a matrix from a row block on; of 4 bits hardly any rest is. */
static inline Place place_at(const Matrix *m, int index, int64_t block) {
    const char *rest = m->format == PACKED8 ? (const char *)rest_at(m, index, block) : NULL;
    return (Place){block_at(m, index, block), rest};
}

/* Codes lie behind the numbers of their row block: what is asked for has to be further on than these are long. */
static inline Course course_to(const Matrix *m, int index, int64_t last, Place next, int reads_rest) {
    int64_t ahead = reads_rest ? HALF_AHEAD : AHEAD;
    int64_t least = (m->format >= PACKED4 ? number_bytes(m->format, groups_of(m)) : 0) + AHEAD / 4;
    Place end = place_at(m, index, last);
    return (Course){{end.near, next.near}, {end.rest, next.rest}, ahead > least ? ahead : least};
}

/* A row block of packed weights. The first to see one of 4 bits finds its bases. */
static inline Weights weights_at(const Matrix *m, int index, int64_t block) {
    const uint8_t *near = (const uint8_t *)block_at(m, index, block);
    Weights w = {near, near + number_bytes(m->format, groups_of(m)), rest_at(m, index, block), NO_BASES};
    if (m->format != PACKED4) return w;
    uint32_t *bases = m->bases + index * (int64_t)row_blocks(m) + block;
    if (*bases == BASES_UNKNOWN) *bases = find_bases(w.numbers, w.rest, groups_of(m));
    w.bases = *bases;
    return w;
}

/* Block rows `first` to `last` of matrix `index` of a stack times all tokens of `in`, stored in `out` (tokens, ld).
   Reading goes on at `next`, where that is known. */
static void multiply(const Matrix *m, int index, const Input *in, float *out, int64_t ld, int first, int last,
                     Place next) {
    const Course course = course_to(m, index, last, next, m->format == PACKED8);
    const float *bias = m->bias ? m->bias + (int64_t)index * m->rows : NULL;
    for (int block = first; block < last; block++) {
        int row = block * BLOCK_ROWS, rows = rows_in(m, block);
        for (int tile = 0; tile * TILE < in->tokens; tile++) {
            _Alignas(64) float sums[TILE * BLOCK_ROWS];
            int tokens = in->tokens - tile * TILE < TILE ? in->tokens - tile * TILE : TILE;
            if (m->format >= PACKED4) {
                packed_tile(weights_at(m, index, block), m->format, in, tile, tile_width(in->tokens, tile), sums,
                            &course);
            } else {
                dense_rows(block_at(m, index, block), block_bytes(m) / BLOCK_ROWS, m->format == BFLOAT16,
                           in->rows + tile * TILE * in->ld, in->ld, m->columns, rows, tokens, sums);
            }
            for (int t = 0; t < tokens; t++) {
                float *to = out + (tile * TILE + t) * ld + row;
                const float *from = sums + t * BLOCK_ROWS;
                if (bias)
                    for (int r = 0; r < rows; r++) to[r] = from[r] + bias[row + r];
                else
                    memcpy(to, from, (size_t)rows * sizeof *to);
            }
        }
    }
}

/* One row of a matrix as float32. */
static void read_row(const Matrix *m, int row, float *to) {
    if (m->format == FLOAT32) {
        memcpy(to, (const float *)m->data + (int64_t)row * m->columns, (size_t)m->columns * sizeof *to);
    } else if (m->format == BFLOAT16) {
        const uint16_t *from = (const uint16_t *)m->data + (int64_t)row * m->columns;
        for (int c = 0; c < m->columns; c++) to[c] = from_bf16(from[c]);
    } else {
        int place = row % BLOCK_ROWS, groups = groups_of(m);
        const uint8_t *rest = rest_at(m, 0, row / BLOCK_ROWS);
        const uint8_t *numbers = (const uint8_t *)block_at(m, 0, row / BLOCK_ROWS);
        const uint8_t *codes = numbers + number_bytes(m->format, groups);
        for (int c = 0; c < m->columns; c++) {
            int g = c / GROUP, four = c % GROUP / 4, turn = 4 * (four % 2);
            int at = NIBBLES * g + 64 * (four / 2) + place * 4 + c % 4, code = codes[at] >> turn & 15;
            uint16_t scale, minimum;
            if (m->format == PACKED8) {
                memcpy(&scale, numbers + SCALES * g + 2 * place, 2);
                to[c] = from_half(scale) * (float)(16 * code + (rest[at] >> turn & 15) - 128);
            } else {
                join_numbers(numbers + NUMBER_BYTES * g, rest + REST_BYTES * g, place, &scale, &minimum);
                to[c] = from_half(scale) * (float)code + from_half(minimum);
            }
        }
    }
}

#endif
