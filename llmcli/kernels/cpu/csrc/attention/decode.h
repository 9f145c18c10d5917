/* Attention of few queries of one kv head, as in decode steps: keys and values are read in the layout of the cache,
   because transposing them would take longer than computing with them. Called by attend.h. */
#ifndef LLM_CPU_ATTENTION_DECODE_H
#define LLM_CPU_ATTENTION_DECODE_H

#include "int8_rows.h"
#include "online_softmax.h"
#include "../runtime/prefetch.h"
#include "../simd/half.h"
#include "../simd/transpose.h"

/* How many queries are computed together, the most that are few, and how many bytes ahead keys and values are
   prefetched: into the second-level cache, because the first level has too few pending line fills (measured: 14 against
   23 GB/s). */
enum { DECODE_QUERIES = 4, FEW_QUERIES = 16, CACHE_DISTANCE = 8192 };

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
        Words k[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) memcpy(k + i, keys + i * row + at, sizeof *k);
        transpose_fours(k);
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

/* Add to the mixtures of n queries from `first` on their scores times `count` values, `vectors` of columns at a time. */
INLINE void mix_values(const QueryGroup *m, Scratch *s, int first, const char *values, const int bf16, int count,
                       const int n, const int vectors, ReadRange o) {
    const int64_t row = (int64_t)m->value_row * (bf16 ? 2 : 4);
    const int size = m->value_size, width = m->value_width;
    const float *weights = s->scores + first * KEY_BLOCK;
    float *mixed = s->mixed + (int64_t)first * width;
    for (int d = 0; d < size; d += vectors * LANES) {
        vf acc[DECODE_QUERIES][4];
        for (int r = 0; r < n; r++)
            for (int j = 0; j < vectors; j++) acc[r][j] = load(mixed + (int64_t)r * width + d + j * LANES);
        for (int k = 0; k < count; k++) {
            const char *from = values + k * row + d * (bf16 ? 2 : 4);
            if (d == 0 && first == 0) prefetch_rows(from, row, o);
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

/* A block of `count` keys, of which the first is at position `key`, and their values, for n queries from `first` on.
   `queries` (n, ...) have been spread. */
INLINE void attend_decode_block(const QueryGroup *m, Scratch *s, const float *queries, int first, const CacheBlock *block,
                                int64_t key, int count, const int bf16, const int n) {
    const int64_t row = (int64_t)m->size * (bf16 ? 2 : 4);
    float *scores = s->scores + first * KEY_BLOCK;
    int k = 0;
    for (; k + 4 <= count; k += 4) {
        if (first == 0) prefetch_rows(block->keys + k * row, 4 * row, block->ahead.keys);
        score_4_keys(queries, block->keys + k * row, m->size, bf16, n, scores + k);
    }
    if (k < count) { /* the last keys, padded with zeros */
        char *padded = (char *)s->values;
        memset(padded, 0, (size_t)(4 * row));
        memcpy(padded, block->keys + k * row, (size_t)((count - k) * row));
        score_4_keys(queries, padded, m->size, bf16, n, scores + k);
        k += 4;
    }
    for (int r = first; r < first + n; r++) online_softmax_block(m, s, r, (int)round_up(k, LANES), key, count);
    if (LANES == 16 && m->value_size % (4 * LANES) == 0)
        mix_values(m, s, first, block->values, bf16, count, n, 4, block->ahead.values);
    else
        mix_values(m, s, first, block->values, bf16, count, n, 2, block->ahead.values);
}

static inline int can_attend_decode(const QueryGroup *m) {
    return m->rows <= FEW_QUERIES && m->size % (2 * LANES) == 0 && m->value_size % (2 * LANES) == 0;
}

INLINE int queries_together(int rows, int first) {
    return rows - first < DECODE_QUERIES ? rows - first : DECODE_QUERIES;
}

INLINE void attend_decode_rows(const QueryGroup *m, const char *keys, const char *values, const int bf16, Scratch *s,
                               CacheRanges on) {
    const int64_t spread = 4 * (int64_t)m->size; /* floats of a query */
    for (int r = 0; r < m->rows; r += DECODE_QUERIES)
        spread_queries(s->queries + (int64_t)r * m->width, m->width, queries_together(m->rows, r), m->size, bf16,
                       s->keys + r * spread);
    for (int64_t key = m->first; key < m->last; key += KEY_BLOCK) {
        int count = m->last - key < KEY_BLOCK ? (int)(m->last - key) : KEY_BLOCK;
        CacheBlock block = block_in_float(m, keys, values, count, on, s);
        for (int r = 0; r < m->rows; r += DECODE_QUERIES) {
            const float *queries = s->keys + r * spread;
#define FOR_ROWS(n)                                                             \
    case n:                                                                     \
        attend_decode_block(m, s, queries, r, &block, key, count, bf16, n);     \
        break;
            switch (queries_together(m->rows, r)) {
                FOR_ROWS(1)
                FOR_ROWS(2)
                FOR_ROWS(3)
                FOR_ROWS(4)
            }
#undef FOR_ROWS
        }
        keys += count * m->key_step, values += count * m->value_step;
    }
}

/* In float32, from a cache of any format; arguments as for attend_bf16. */
static void attend_decode(const QueryGroup *m, const char *keys, const char *values, int bf16, int64_t next,
                          PrefetchCursor *cursor, Scratch *s) {
    CacheRanges on = cache_ranges(m, keys, values, next, cursor);
    if (bf16)
        attend_decode_rows(m, keys, values, 1, s, on);
    else
        attend_decode_rows(m, keys, values, 0, s, on);
}
#endif

#endif
