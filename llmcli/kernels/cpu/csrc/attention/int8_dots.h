/* Attention over a cache in 8 bits with dot products of whole numbers: keys and values are multiplied as they are
   stored, with queries and attention weights rounded to 16 bits. Called by attend.h. */
#ifndef LLM_CPU_ATTENTION_INT8_DOTS_H
#define LLM_CPU_ATTENTION_INT8_DOTS_H

#include "decode.h"
#include "int8_rows.h"
#include "online_softmax.h"
#include "../simd/transpose.h"

#ifdef USE_DECODE

/* The greatest code of 16 bits, and the most queries whose codes fit the scratch memory's keys. */
enum { GREATEST_CODE = 32767, SPREAD_QUERIES = 32, BYTES = sizeof(Words), CODES = BYTES / 2 };

/* `sums` plus the products of pairs of 16-bit numbers. The empty statement keeps compilers from adding in another order,
   for which they have too few registers. */
INLINE Words add_products(Words sums, Words a, Words b) {
#ifdef USE_AVX512
    return _mm512_dpwssd_epi32(sums, a, b);
#else
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(a, b));
    __asm__("" : "+x"(sums));
    return sums;
#endif
}

INLINE Words load_words(const void *from) {
    Words words;
    memcpy(&words, from, sizeof words);
    return words;
}

/* The scales of `count` rows, transposed: (groups, KEY_BLOCK) in float32, zeros for further rows up to `n`, a multiple
   of 16. */
INLINE void take_scales(const char *rows, int64_t step, int size, int count, int n, float *to) {
    for (int g = 0; g < size / SCALED_TOGETHER; g++, to += KEY_BLOCK) {
        const char *from = rows + size + 2 * g;
        uint16_t halves[KEY_BLOCK];
#pragma GCC unroll 8
        for (int k = 0; k < count; k++, from += step) memcpy(halves + k, from, sizeof *halves);
        for (int k = count; k < n; k++) halves[k] = 0;
        for (int k = 0; k < n; k += 16) from_halves(halves + k, to + k);
    }
}

/* Round a query to 16 bits, and write it in the order in which bytes of keys come out of 4 x 4 transposes: for each
   vector of bytes and each of its four words, the first and third number of that word of each block of 16 bytes, four
   times, then the second and fourth. `step`: numbers from one word to the next. Returns the scale, which is NaN if a
   number is not finite. */
static float spread_query(const float *query, int size, int16_t *to, int64_t step) {
    float most = 0, zero = 0;
    for (int d = 0; d < size; d++) {
        most = fabsf(query[d]) > most ? fabsf(query[d]) : most;
        zero += query[d] * 0;
    }
    float scale = most / GREATEST_CODE + zero, factor = GREATEST_CODE / most;
    for (int d = 0; d < size; d++) {
        float rounded = scale > 0 ? rintf(query[d] * factor) : 0;
        int16_t code = (int16_t)(rounded > GREATEST_CODE ? GREATEST_CODE : rounded < -GREATEST_CODE ? -GREATEST_CODE
                                                                                                   : rounded);
        int word = d / BYTES * 4 + d % 16 / 4, block = d % BYTES / 16;
        int16_t *at = to + word * step + d % 2 * CODES + block * 8 + d % 4 / 2;
        for (int i = 0; i < 4; i++) at[2 * i] = code;
    }
    return scale;
}

/* The scales of four keys in each block of lanes: those of the group that the block's bytes are in. */
INLINE vf scales_of_blocks(const float *scales) {
    __m128 first = _mm_loadu_ps(scales);
#ifdef USE_AVX512
    return (vf)_mm512_mask_broadcast_f32x4(_mm512_broadcast_f32x4(first), 0xff00, _mm_loadu_ps(scales + KEY_BLOCK));
#else
    return (vf)_mm256_set_m128(first, first);
#endif
}

/* Scores (n, KEY_BLOCK) of n queries against four keys. */
INLINE void score_4_int8_keys(const int16_t *queries, const float *query_scales, const char *const keys[4],
                              const float *scales, int size, const int n, float *scores) {
    vf total[DECODE_QUERIES];
    for (int r = 0; r < n; r++) total[r] = (vf){0};
    for (int at = 0; at < size; at += BYTES) {
        Words k[4], sums[DECODE_QUERIES];
        vf scale = scales_of_blocks(scales + at / SCALED_TOGETHER * KEY_BLOCK);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) k[i] = load_words(keys[i] + at);
        transpose_fours(k);
#pragma GCC unroll 4
        for (int r = 0; r < n; r++) sums[r] = (Words)(vi){0};
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            Words even = VECTOR(srai_epi16)(VECTOR(slli_epi16)(k[j], 8), 8), odd = VECTOR(srai_epi16)(k[j], 8);
#pragma GCC unroll 4
            for (int r = 0; r < n; r++, queries += 2 * CODES) {
                sums[r] = add_products(sums[r], even, load_words(queries));
                sums[r] = add_products(sums[r], odd, load_words(queries + CODES));
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < n; r++) total[r] += (vf)VECTOR(cvtepi32_ps)(sums[r]) * scale;
    }
#pragma GCC unroll 4
    for (int r = 0; r < n; r++)
        _mm_storeu_ps(scores + r * KEY_BLOCK, _mm_mul_ps(sum_of_fours(total[r]), _mm_set1_ps(query_scales[r])));
}

/* The greatest of `n` numbers that are not negative; NaN if one of them is NaN. */
INLINE float greatest_of(const float *numbers, int n) {
    vi best = {0};
    for (int i = 0; i < n; i += LANES) {
#ifdef USE_AVX512
        best = (vi)_mm512_max_epi32((__m512i)best, _mm512_loadu_si512(numbers + i));
#else
        best = (vi)_mm256_max_epi32((__m256i)best, _mm256_loadu_si256((const __m256i *)(numbers + i)));
#endif
    }
    return max_magnitude(best & 0x7fffffff);
}

/* Scale `n` numbers so that the greatest is `to`. Returns their scale. */
INLINE float scale_numbers(float *numbers, int n, float to) {
    float most = greatest_of(numbers, n), factor = most > 0 ? to / most : 0;
    for (int i = 0; i < n; i += LANES) store(numbers + i, load(numbers + i) * factor);
    return most / to;
}

/* Round the products of `n` attention weights and scales of values to 16 bits. */
INLINE void round_weights(const float *weights, const float *scales, int n, int16_t *to) {
    for (int i = 0; i < n; i += 16) {
#ifdef USE_AVX512
        __m512i codes = _mm512_cvtps_epi32((__m512)(load(weights + i) * load(scales + i)));
        _mm256_storeu_si256((__m256i *)(to + i), _mm512_cvtsepi32_epi16(codes));
#else
        __m256i first = _mm256_cvtps_epi32((__m256)(load(weights + i) * load(scales + i)));
        __m256i second = _mm256_cvtps_epi32((__m256)(load(weights + i + 8) * load(scales + i + 8)));
        _mm256_storeu_si256((__m256i *)(to + i), _mm256_permute4x64_epi64(_mm256_packs_epi32(first, second), 0xd8));
#endif
    }
}

/* The bytes at `from` as 16-bit numbers. */
INLINE Words widen_bytes(const char *from) {
#ifdef USE_AVX512
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)from));
#else
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)from));
#endif
}

/* Add sums of products to `to`: `low` and `high` are the lower and upper four columns of each eight. */
INLINE void add_columns(float *to, Words low, Words high, float scale) {
    vf a = (vf)VECTOR(cvtepi32_ps)(low), b = (vf)VECTOR(cvtepi32_ps)(high);
#ifdef USE_AVX512
    const __m512i first = _mm512_set_epi32(23, 22, 21, 20, 7, 6, 5, 4, 19, 18, 17, 16, 3, 2, 1, 0);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
    vf x = (vf)_mm512_permutex2var_ps((__m512)a, first, (__m512)b);
    vf y = (vf)_mm512_permutex2var_ps((__m512)a, second, (__m512)b);
#else
    vf x = (vf)_mm256_permute2f128_ps((__m256)a, (__m256)b, 0x20);
    vf y = (vf)_mm256_permute2f128_ps((__m256)a, (__m256)b, 0x31);
#endif
    store(to, load(to) + x * scale);
    store(to + LANES, load(to + LANES) + y * scale);
}

/* Add to the mixtures of n queries from `first` on their attention weights times `count` values. */
INLINE void mix_int8_values(const QueryGroup *m, Scratch *s, int first, const char *values, int count, const int n,
                            CacheRanges on) {
    const int groups = m->value_size / SCALED_TOGETHER, padded = (int)round_up(count, 16);
    const int64_t step = m->value_step;
    int16_t *codes = (int16_t *)s->values;
    const float *scales = s->unpacked_values, *group_scales = scales + groups * KEY_BLOCK;
    float weight_scales[DECODE_QUERIES];
    for (int r = 0; r < n; r++) weight_scales[r] = scale_numbers(s->scores + (first + r) * KEY_BLOCK, padded, 1);
    for (int g = 0; g < groups; g++) {
        for (int r = 0; r < n; r++)
            round_weights(s->scores + (first + r) * KEY_BLOCK, scales + g * KEY_BLOCK, padded, codes + r * KEY_BLOCK);
        for (int d = g * SCALED_TOGETHER; d < (g + 1) * SCALED_TOGETHER; d += CODES) {
            Words low[DECODE_QUERIES], high[DECODE_QUERIES];
#pragma GCC unroll 4
            for (int r = 0; r < n; r++) low[r] = high[r] = (Words)(vi){0};
            for (int k = 0; k < count; k += 2) {
                /* After an odd number of values, the last one again, whose weight is zero there. */
                if (!first && !d) prefetch_rows(values + k * step, 2 * step, on.values);
                const char *from = values + k * step + d, *second = from + (k + 1 < count ? step : 0);
                Words a = widen_bytes(from), b = widen_bytes(second);
                Words first_pairs = VECTOR(unpacklo_epi16)(a, b), last_pairs = VECTOR(unpackhi_epi16)(a, b);
#pragma GCC unroll 4
                for (int r = 0; r < n; r++) {
                    int32_t pair;
                    memcpy(&pair, codes + r * KEY_BLOCK + k, sizeof pair);
                    Words weights = VECTOR(set1_epi32)(pair);
                    low[r] = add_products(low[r], first_pairs, weights);
                    high[r] = add_products(high[r], last_pairs, weights);
                }
            }
#pragma GCC unroll 4
            for (int r = 0; r < n; r++)
                add_columns(s->mixed + (int64_t)(first + r) * m->value_width + d, low[r], high[r],
                            weight_scales[r] * group_scales[g]);
        }
    }
}

/* A block of `count` keys and values for n queries from `first` on. */
INLINE void attend_int8_block(const QueryGroup *m, Scratch *s, const int16_t *queries, const float *query_scales,
                              int first, const char *keys, const char *values, int64_t key, int count, const int n,
                              CacheRanges on) {
    for (int k = 0; k < count; k += 4) {
        const char *four[4]; /* beyond the last key, that one again: the scores are not used */
        if (!first) prefetch_rows(keys + k * m->key_step, 4 * m->key_step, on.keys);
        for (int i = 0; i < 4; i++) four[i] = keys + (k + i < count ? k + i : count - 1) * m->key_step;
        score_4_int8_keys(queries, query_scales, four, s->unpacked_keys + k, m->size, n,
                          s->scores + first * KEY_BLOCK + k);
    }
    for (int r = first; r < first + n; r++) online_softmax_block(m, s, r, (int)round_up(count, 16), key, count);
    mix_int8_values(m, s, first, values, count, n, on);
}

/* Many queries are faster with dot products of bfloat16, for which keys are unpacked once. */
static inline int can_attend_int8(const QueryGroup *m) {
#ifdef USE_BF16
    if (m->rows > FEW_QUERIES) return 0;
#endif
    return m->format == INT8_ROWS && !m->layer->latent.rank && m->size % BYTES == 0 &&
           m->value_size % SCALED_TOGETHER == 0;
}

/* Arguments as for attend_decode. */
static void attend_int8(const QueryGroup *m, const char *keys, const char *values, int64_t next, PrefetchCursor *cursor,
                        Scratch *s) {
    CacheRanges on = cache_ranges(m, keys, values, next, cursor);
    const int groups = m->value_size / SCALED_TOGETHER;
    for (int start = 0; start < m->rows; start += SPREAD_QUERIES) {
        int rows = m->rows - start < SPREAD_QUERIES ? m->rows - start : SPREAD_QUERIES;
        int16_t *spread = (int16_t *)s->keys;
        float scales[SPREAD_QUERIES];
        for (int r = 0; r < rows; r++) {
            int place = r % DECODE_QUERIES, n = queries_together(rows, r - place);
            scales[r] = spread_query(s->queries + (int64_t)(start + r) * m->width, m->size,
                                     spread + (int64_t)(r - place) * m->size * 4 + place * 2 * CODES, n * 2 * CODES);
        }
        const char *key_rows = keys, *value_rows = values;
        for (int64_t key = m->first; key < m->last; key += KEY_BLOCK) {
            int count = m->last - key < KEY_BLOCK ? (int)(m->last - key) : KEY_BLOCK;
            int padded = (int)round_up(count, 16);
            take_scales(key_rows, m->key_step, m->size, count, padded, s->unpacked_keys);
            take_scales(value_rows, m->value_step, m->value_size, count, padded, s->unpacked_values);
            for (int g = 0; g < groups; g++)
                s->unpacked_values[groups * KEY_BLOCK + g] =
                    scale_numbers(s->unpacked_values + g * KEY_BLOCK, padded, GREATEST_CODE);
            for (int r = 0; r < rows; r += DECODE_QUERIES) {
                const int16_t *queries = spread + (int64_t)r * m->size * 4;
#define FOR_ROWS(n)                                                                                       \
    case n:                                                                                               \
        attend_int8_block(m, s, queries, scales + r, start + r, key_rows, value_rows, key, count, n, on); \
        break;
                switch (queries_together(rows, r)) {
                    FOR_ROWS(1)
                    FOR_ROWS(2)
                    FOR_ROWS(3)
                    FOR_ROWS(4)
                }
#undef FOR_ROWS
            }
            key_rows += count * m->key_step, value_rows += count * m->value_step;
        }
    }
}
#endif

#endif
