/* Attention of a few queries, as many as a token has for one kv head: keys and values are read where they lie in the
   cache, for to lay them out otherwise would take longer than to compute with them. */
#ifndef LLM_CPU_ATTENTION_DECODE_H
#define LLM_CPU_ATTENTION_DECODE_H

#include "online_softmax.h"
#include "../runtime/prefetch.h"
#include "../simd/half.h"

/* How many queries are few; and how far ahead keys and values are asked for, in bytes, and only into the second cache: the
   first can wait for a few lines at a time (measured: 14 against 23 GB/s). */
enum { FEW = 4, KEYS_AHEAD = 8192 };

/* As much as `bytes` of them, the first of which lies at `from`. */
INLINE void ask_for_rows(const void *from, int64_t bytes, Outlook o) {
    const char *ahead = (const char *)from + KEYS_AHEAD;
    if (ahead >= o.end) {
        if (!o.next) return;
        ahead = o.next + (ahead - o.end);
    }
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(ahead + at, 0, 2);
}

typedef struct {
    Outlook keys, values;
} Outlooks;

/* Of `bytes` of keys and as many of values. `next` is how far behind their beginnings the caller will read on; where that
   is 0, `onward` is where. */
static inline Outlooks outlooks(const char *keys, const char *values, int64_t bytes, int64_t next, Onward *onward) {
    int64_t asked = next || !onward->at ? 0 : bytes < KEYS_AHEAD ? bytes : KEYS_AHEAD;
    Outlooks o = {{keys + bytes, next ? keys + next : onward->at},
                  {values + bytes, next ? values + next : onward->at ? onward->at + asked : NULL}};
    if (asked) onward->at += 2 * asked;
    return o;
}

#if defined(USE_AVX512) || defined(USE_AVX2)
#define USE_FEW 1

#ifdef USE_AVX512
#define WHOLE_VECTOR(operation) _mm512_##operation
typedef __m512i Whole;
#else
#define WHOLE_VECTOR(operation) _mm256_##operation
typedef __m256i Whole;
#endif

/* Fours of a vector added up. */
INLINE __m128 sum_of_fours(vf v) {
#ifdef USE_AVX512
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256((__m512)v),
                                _mm256_castpd_ps(_mm512_extractf64x4_pd((__m512d)v, 1)));
#else
    __m256 half = (__m256)v;
#endif
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/* The cache has 32-bit words: single values, or pairs of bfloat16 of which the first is the lower half. */
INLINE vf value_of(Whole words, const int bf16, const int second) {
    if (!bf16) return (vf)words;
    return second ? (vf)((vi)words & (int32_t)0xffff0000u) : (vf)((vi)words << 16);
}

/* Queries as they meet keys of which only fours are exchanged: (vectors of words, 4, n, values of a word, LANES). The j-th
   of four vectors has in each of its fours the j-th word of the vector's, four times. */
static void spread_queries(const float *queries, int width, int n, int size, int bf16, float *to) {
    int values = bf16 ? 2 : 1;
    for (int d = 0; d < size; d += values * LANES)
        for (int r = 0; r < n; r++)
            for (int value = 0; value < values; value++) {
                const float *from = queries + (int64_t)r * width + d + value;
                float words[LANES], *at = to + (d / values * 4 / LANES * n + r) * values * LANES + value * LANES;
                for (int i = 0; i < LANES; i++) words[i] = from[values * i];
                Whole w = (Whole)load(words);
                int64_t step = (int64_t)n * values * LANES;
                store(at, (vf)WHOLE_VECTOR(shuffle_epi32)(w, 0x00));
                store(at + step, (vf)WHOLE_VECTOR(shuffle_epi32)(w, 0x55));
                store(at + 2 * step, (vf)WHOLE_VECTOR(shuffle_epi32)(w, 0xaa));
                store(at + 3 * step, (vf)WHOLE_VECTOR(shuffle_epi32)(w, 0xff));
            }
}

/* Scores (n, KEYS) of n queries against four keys. */
INLINE void score_four(const float *queries, const char *keys, int size, const int bf16, const int n, float *scores) {
    const int values = bf16 ? 2 : 1, row = size * (bf16 ? 2 : 4);
    vf acc[FEW][2];
    for (int r = 0; r < n; r++) acc[r][0] = acc[r][1] = (vf){0};
    for (int at = 0; at < row; at += (int)sizeof(Whole)) {
        Whole k[4], t[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) memcpy(k + i, keys + i * row + at, sizeof *k);
        t[0] = WHOLE_VECTOR(unpacklo_epi32)(k[0], k[1]), t[1] = WHOLE_VECTOR(unpackhi_epi32)(k[0], k[1]);
        t[2] = WHOLE_VECTOR(unpacklo_epi32)(k[2], k[3]), t[3] = WHOLE_VECTOR(unpackhi_epi32)(k[2], k[3]);
        k[0] = WHOLE_VECTOR(unpacklo_epi64)(t[0], t[2]), k[1] = WHOLE_VECTOR(unpackhi_epi64)(t[0], t[2]);
        k[2] = WHOLE_VECTOR(unpacklo_epi64)(t[1], t[3]), k[3] = WHOLE_VECTOR(unpackhi_epi64)(t[1], t[3]);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
#pragma GCC unroll 4
            for (int r = 0; r < n; r++)
#pragma GCC unroll 2
                for (int value = 0; value < values; value++, queries += LANES)
                    acc[r][j % 2] += value_of(k[j], bf16, value) * load(queries);
    }
#pragma GCC unroll 4
    for (int r = 0; r < n; r++) _mm_storeu_ps(scores + r * KEYS, sum_of_fours(acc[r][0] + acc[r][1]));
}

/* mixed (n, width) += weights (n, KEYS) times values (count, size), `vectors` of columns at a time. */
INLINE void mix_few(const float *weights, const char *values, int size, const int bf16, int count, const int n,
                    const int vectors, float *mixed, int width, Outlook o) {
    const int64_t row = (int64_t)size * (bf16 ? 2 : 4);
    for (int d = 0; d < size; d += vectors * LANES) {
        vf acc[FEW][4];
        for (int r = 0; r < n; r++)
            for (int j = 0; j < vectors; j++) acc[r][j] = load(mixed + (int64_t)r * width + d + j * LANES);
        for (int k = 0; k < count; k++) {
            const char *from = values + k * row + d * (bf16 ? 2 : 4);
            if (d == 0) ask_for_rows(from, row, o);
            vf v[4];
#pragma GCC unroll 4
            for (int j = 0; j < vectors; j++) {
                int at = j * LANES * (bf16 ? 2 : 4);
                v[j] = bf16 ? load_bf16((const uint16_t *)(from + at)) : load((const float *)(from + at));
            }
#pragma GCC unroll 4
            for (int r = 0; r < n; r++)
#pragma GCC unroll 4
                for (int j = 0; j < vectors; j++) acc[r][j] += v[j] * weights[r * KEYS + k];
        }
        for (int r = 0; r < n; r++)
            for (int j = 0; j < vectors; j++) store(mixed + (int64_t)r * width + d + j * LANES, acc[r][j]);
    }
}

INLINE void attend_few_of(const Meeting *m, const char *keys, const char *values, const int bf16, const int n,
                          Scratch *s, Outlooks on) {
    const int64_t row = (int64_t)m->size * (bf16 ? 2 : 4);
    spread_queries(s->queries, m->width, n, m->size, bf16, s->keys);
    for (int64_t key = m->first; key < m->last; key += KEYS) {
        int count = m->last - key < KEYS ? (int)(m->last - key) : KEYS, k = 0;
        for (; k + 4 <= count; k += 4) {
            ask_for_rows(keys + k * row, 4 * row, on.keys);
            score_four(s->keys, keys + k * row, m->size, bf16, n, s->scores + k);
        }
        if (k < count) { /* what is lacking is zero */
            char *padded = (char *)s->values;
            memset(padded, 0, (size_t)(4 * row));
            memcpy(padded, keys + k * row, (size_t)((count - k) * row));
            score_four(s->keys, padded, m->size, bf16, n, s->scores + k);
            k += 4;
        }
        for (int r = 0; r < n; r++) take_in_block(m, s, r, (int)round_up(k, LANES), key, count);
        if (LANES == 16 && m->size % (4 * LANES) == 0)
            mix_few(s->scores, values, m->size, bf16, count, n, 4, s->mixed, m->width, on.values);
        else
            mix_few(s->scores, values, m->size, bf16, count, n, 2, s->mixed, m->width, on.values);
        keys += count * row, values += count * row;
    }
}

static inline int can_attend_few(const Meeting *m) { return m->rows <= FEW && m->size % (2 * LANES) == 0; }

/* In float32, from a cache of either format; arguments as those of attend_bf16. */
static void attend_few(const Meeting *m, const char *keys, const char *values, int bf16, int64_t next, Onward *onward,
                       Scratch *s) {
    int64_t value = bf16 ? 2 : 4;
    Outlooks on = outlooks(keys, values, (m->last - m->first) * m->size * value, next * value, onward);
#define FOR_ROWS(n)                                              \
    case n:                                                      \
        if (bf16)                                                \
            attend_few_of(m, keys, values, 1, n, s, on);         \
        else                                                     \
            attend_few_of(m, keys, values, 0, n, s, on);         \
        break;
    switch (m->rows) {
        FOR_ROWS(1)
        FOR_ROWS(2)
        FOR_ROWS(3)
        FOR_ROWS(4)
    }
#undef FOR_ROWS
}
#endif

#endif
