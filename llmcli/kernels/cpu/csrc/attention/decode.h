/* Attention of up to 4 queries of one kv head, as in decode steps: keys and values are read in the layout of the cache,
   because transposing them would take longer than computing with them. Called by attend.h. */
#ifndef LLM_CPU_ATTENTION_DECODE_H
#define LLM_CPU_ATTENTION_DECODE_H

#include "int8_rows.h"
#include "online_softmax.h"
#include "../runtime/prefetch.h"
#include "../simd/half.h"

/* The most queries, and how many bytes ahead keys and values are prefetched: into the second-level cache, because the
   first level has too few pending line fills (measured: 14 against 23 GB/s). */
enum { DECODE_QUERIES = 4, CACHE_DISTANCE = 8192 };

/* Prefetch `bytes` bytes, CACHE_DISTANCE after `from`. */
INLINE void prefetch_rows(const void *from, int64_t bytes, ReadRange o) {
    const char *ahead = (const char *)from + CACHE_DISTANCE;
    if (ahead >= o.end) {
        if (!o.next) return;
        ahead = o.next + (ahead - o.end);
    }
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(ahead + at, 0, 2);
}

typedef struct {
    ReadRange keys, values;
} CacheRanges;

/* The ranges of the keys and values of some queries. Prefetch continues `next` positions after their beginnings or, if
   that is 0, at `cursor`. */
static inline CacheRanges cache_ranges(const QueryGroup *m, const char *keys, const char *values, int64_t next,
                                       PrefetchCursor *cursor) {
    int64_t key_row = m->key_step, value_row = m->value_step, count = m->last - m->first;
    int64_t bytes = count * key_row, asked = next || !cursor->at ? 0 : bytes < CACHE_DISTANCE ? bytes : CACHE_DISTANCE;
    CacheRanges o = {{keys + bytes, next ? keys + next * key_row : cursor->at},
                     {values + count * value_row,
                      next ? values + next * value_row : cursor->at ? cursor->at + asked : NULL}};
    if (asked) cursor->at += 2 * asked;
    return o;
}

/* A block of keys and values: where it is in the cache or, if that is in 8 bits, where it has been unpacked. */
typedef struct {
    const char *keys, *values;
    CacheRanges ahead; /* what to prefetch while it is read */
} CacheBlock;

/* The block of `count` keys and values as float32, if the cache is in 8 bits. */
static CacheBlock block_in_float(const QueryGroup *m, const char *keys, const char *values, int count, CacheRanges on,
                                 Scratch *s) {
    if (m->format != INT8_ROWS) return (CacheBlock){keys, values, on};
    const char *first = keys;
    for (int k = 0; k < count; k++, keys += m->key_step) {
        prefetch_rows(keys, m->key_step, on.keys);
        unpack_int8_row(keys, m->size, s->unpacked_keys + (int64_t)k * m->size);
    }
    /* Latent attention mixes the beginnings of its keys. */
    if (values == first)
        return (CacheBlock){(const char *)s->unpacked_keys, (const char *)s->unpacked_keys, {{0}, {0}}};
    for (int k = 0; k < count; k++, values += m->value_step) {
        prefetch_rows(values, m->value_step, on.values);
        unpack_int8_row(values, m->value_size, s->unpacked_values + (int64_t)k * m->value_size);
    }
    return (CacheBlock){(const char *)s->unpacked_keys, (const char *)s->unpacked_values, {{0}, {0}}};
}

#if defined(USE_AVX512) || defined(USE_AVX2)
#define USE_DECODE 1

#ifdef USE_AVX512
#define VECTOR(operation) _mm512_##operation
typedef __m512i Words;
#else
#define VECTOR(operation) _mm256_##operation
typedef __m256i Words;
#endif

/* The sum of a vector's blocks of four lanes. */
INLINE __m128 sum_of_fours(vf v) {
#ifdef USE_AVX512
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256((__m512)v),
                                _mm256_castpd_ps(_mm512_extractf64x4_pd((__m512d)v, 1)));
#else
    __m256 half = (__m256)v;
#endif
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/* The cache is read as 32-bit words: single values, or pairs of bfloat16 with the first in the lower half. */
INLINE vf value_of(Words words, const int bf16, const int second) {
    if (!bf16) return (vf)words;
    return second ? (vf)((vi)words & (int32_t)0xffff0000u) : (vf)((vi)words << 16);
}

/* Queries in the order in which keys come out of 4 x 4 transposes: (vectors of words, 4, n, values of a word, LANES).
   In each block of four lanes, the j-th of four vectors contains the j-th word of that block, four times. */
static void spread_queries(const float *queries, int width, int n, int size, int bf16, float *to) {
    int values = bf16 ? 2 : 1;
    for (int d = 0; d < size; d += values * LANES)
        for (int r = 0; r < n; r++)
            for (int value = 0; value < values; value++) {
                const float *from = queries + (int64_t)r * width + d + value;
                float words[LANES], *at = to + (d / values * 4 / LANES * n + r) * values * LANES + value * LANES;
                for (int i = 0; i < LANES; i++) words[i] = from[values * i];
                Words w = (Words)load(words);
                int64_t step = (int64_t)n * values * LANES;
                store(at, (vf)VECTOR(shuffle_epi32)(w, 0x00));
                store(at + step, (vf)VECTOR(shuffle_epi32)(w, 0x55));
                store(at + 2 * step, (vf)VECTOR(shuffle_epi32)(w, 0xaa));
                store(at + 3 * step, (vf)VECTOR(shuffle_epi32)(w, 0xff));
            }
}

/* Scores (n, KEY_BLOCK) of n queries against four keys. */
INLINE void score_4_keys(const float *queries, const char *keys, int size, const int bf16, const int n, float *scores) {
    const int values = bf16 ? 2 : 1, row = size * (bf16 ? 2 : 4);
    vf acc[DECODE_QUERIES][2];
    for (int r = 0; r < n; r++) acc[r][0] = acc[r][1] = (vf){0};
    for (int at = 0; at < row; at += (int)sizeof(Words)) {
        Words k[4], t[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) memcpy(k + i, keys + i * row + at, sizeof *k);
        t[0] = VECTOR(unpacklo_epi32)(k[0], k[1]), t[1] = VECTOR(unpackhi_epi32)(k[0], k[1]);
        t[2] = VECTOR(unpacklo_epi32)(k[2], k[3]), t[3] = VECTOR(unpackhi_epi32)(k[2], k[3]);
        k[0] = VECTOR(unpacklo_epi64)(t[0], t[2]), k[1] = VECTOR(unpackhi_epi64)(t[0], t[2]);
        k[2] = VECTOR(unpacklo_epi64)(t[1], t[3]), k[3] = VECTOR(unpackhi_epi64)(t[1], t[3]);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
#pragma GCC unroll 4
            for (int r = 0; r < n; r++)
#pragma GCC unroll 2
                for (int value = 0; value < values; value++, queries += LANES)
                    acc[r][j % 2] += value_of(k[j], bf16, value) * load(queries);
    }
#pragma GCC unroll 4
    for (int r = 0; r < n; r++) _mm_storeu_ps(scores + r * KEY_BLOCK, sum_of_fours(acc[r][0] + acc[r][1]));
}

/* Add to the scratch memory's mixture of n queries its scores times `count` values, `vectors` of columns at a time. */
INLINE void mix_values(const QueryGroup *m, Scratch *s, const char *values, const int bf16, int count, const int n,
                       const int vectors, ReadRange o) {
    const int64_t row = (int64_t)m->value_row * (bf16 ? 2 : 4);
    const int size = m->value_size, width = m->value_width;
    const float *weights = s->scores;
    float *mixed = s->mixed;
    for (int d = 0; d < size; d += vectors * LANES) {
        vf acc[DECODE_QUERIES][4];
        for (int r = 0; r < n; r++)
            for (int j = 0; j < vectors; j++) acc[r][j] = load(mixed + (int64_t)r * width + d + j * LANES);
        for (int k = 0; k < count; k++) {
            const char *from = values + k * row + d * (bf16 ? 2 : 4);
            if (d == 0) prefetch_rows(from, row, o);
            vf v[4];
#pragma GCC unroll 4
            for (int j = 0; j < vectors; j++) {
                int at = j * LANES * (bf16 ? 2 : 4);
                v[j] = bf16 ? load_bf16((const uint16_t *)(from + at)) : load((const float *)(from + at));
            }
#pragma GCC unroll 4
            for (int r = 0; r < n; r++)
#pragma GCC unroll 4
                for (int j = 0; j < vectors; j++) acc[r][j] += v[j] * weights[r * KEY_BLOCK + k];
        }
        for (int r = 0; r < n; r++)
            for (int j = 0; j < vectors; j++) store(mixed + (int64_t)r * width + d + j * LANES, acc[r][j]);
    }
}

INLINE void attend_decode_rows(const QueryGroup *m, const char *keys, const char *values, const int bf16, const int n,
                               Scratch *s, CacheRanges on) {
    const int64_t row = (int64_t)m->size * (bf16 ? 2 : 4);
    spread_queries(s->queries, m->width, n, m->size, bf16, s->keys);
    for (int64_t key = m->first; key < m->last; key += KEY_BLOCK) {
        int count = m->last - key < KEY_BLOCK ? (int)(m->last - key) : KEY_BLOCK, k = 0;
        CacheBlock block = block_in_float(m, keys, values, count, on, s);
        for (; k + 4 <= count; k += 4) {
            prefetch_rows(block.keys + k * row, 4 * row, block.ahead.keys);
            score_4_keys(s->keys, block.keys + k * row, m->size, bf16, n, s->scores + k);
        }
        if (k < count) { /* the last keys, padded with zeros */
            char *padded = (char *)s->values;
            memset(padded, 0, (size_t)(4 * row));
            memcpy(padded, block.keys + k * row, (size_t)((count - k) * row));
            score_4_keys(s->keys, padded, m->size, bf16, n, s->scores + k);
            k += 4;
        }
        for (int r = 0; r < n; r++) online_softmax_block(m, s, r, (int)round_up(k, LANES), key, count);
        if (LANES == 16 && m->value_size % (4 * LANES) == 0)
            mix_values(m, s, block.values, bf16, count, n, 4, block.ahead.values);
        else
            mix_values(m, s, block.values, bf16, count, n, 2, block.ahead.values);
        keys += count * m->key_step, values += count * m->value_step;
    }
}

static inline int can_attend_decode(const QueryGroup *m) {
    return m->rows <= DECODE_QUERIES && m->size % (2 * LANES) == 0 && m->value_size % (2 * LANES) == 0;
}

/* In float32, from a cache of any format; arguments as for attend_bf16. */
static void attend_decode(const QueryGroup *m, const char *keys, const char *values, int bf16, int64_t next,
                          PrefetchCursor *cursor, Scratch *s) {
    CacheRanges on = cache_ranges(m, keys, values, next, cursor);
#define FOR_ROWS(n)                                              \
    case n:                                                      \
        if (bf16)                                                \
            attend_decode_rows(m, keys, values, 1, n, s, on);         \
        else                                                     \
            attend_decode_rows(m, keys, values, 0, n, s, on);         \
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
