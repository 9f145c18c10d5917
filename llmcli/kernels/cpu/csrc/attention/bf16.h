/* Attention with bfloat16 dot products, where the processor has them and the cache is bfloat16: queries and attention
   weights are rounded to the precision of the cache. Called by attend.h. */
#ifndef LLM_CPU_ATTENTION_BF16_H
#define LLM_CPU_ATTENTION_BF16_H

#include "decode.h"
#include "online_softmax.h"
#include "../runtime/prefetch.h"
#include "../simd/transpose.h"

#if defined(USE_AVX512) && defined(__AVX512BF16__)
#define USE_BF16 1

/* Keys (count, size) to pairs of consecutive values: (size / 2, KEY_BLOCK, 2). */
static void pair_keys(const uint16_t *from, int size, int count, uint32_t *to) {
    for (int k = 0; k < count; k += 16) {
        for (int d = 0; d < size; d += 32) {
            __m512i r[16];
            if (count - k >= 16) {
                transpose16((const char *)(from + (int64_t)k * size + d), (int64_t)size * 2, r);
            } else {
                uint16_t padded[16][32] = {{0}};
                for (int i = 0; i < count - k; i++) memcpy(padded[i], from + (int64_t)(k + i) * size + d, 64);
                transpose16((const char *)padded, 64, r);
            }
            for (int i = 0; i < 16; i++) _mm512_storeu_si512(to + (d / 2 + i) * KEY_BLOCK + k, r[i]);
        }
    }
}

/* Values (count, size), a row every `row` values, to pairs of consecutive keys: (count / 2, size, 2), the last pair
   padded with zeros. */
static void pair_values(const uint16_t *from, int size, int row, int count, uint32_t *to) {
    const __m512i odd = _mm512_set_epi16(31, 63, 30, 62, 29, 61, 28, 60, 27, 59, 26, 58, 25, 57, 24, 56, 23, 55, 22, 54,
                                         21, 53, 20, 52, 19, 51, 18, 50, 17, 49, 16, 48);
    const __m512i low = _mm512_sub_epi16(odd, _mm512_set1_epi16(16));
    for (int k = 0; k < count; k += 2) {
        for (int d = 0; d < size; d += 32) {
            __m512i second = _mm512_loadu_si512(from + (int64_t)k * row + d), first = _mm512_setzero_si512();
            if (k + 1 < count) first = _mm512_loadu_si512(from + (int64_t)(k + 1) * row + d);
            _mm512_storeu_si512(to + k / 2 * size + d, _mm512_permutex2var_epi16(first, low, second));
            _mm512_storeu_si512(to + k / 2 * size + d + 16, _mm512_permutex2var_epi16(first, odd, second));
        }
    }
}

/* Prefetch the line CACHE_DISTANCE after `from`. */
INLINE void prefetch_keys(const void *from, ReadRange o) {
    const char *ahead = (const char *)from + CACHE_DISTANCE;
    if (ahead >= o.end) ahead = o.next ? o.next + (ahead - o.end) : from;
    __builtin_prefetch(ahead, 0, 2);
}

/* Queries in the order in which keys come out of 4 x 4 transposes: (size / 8, n, 16 pairs of values). For 32 values,
   the j-th of four vectors contains the pairs j, 4 + j, 8 + j and 12 + j, each four times. */
static void arrange_queries(const float *queries, int width, int n, int size, uint32_t *to) {
    for (int d = 0; d < size; d += 32)
        for (int j = 0; j < 4; j++)
            for (int r = 0; r < n; r++) {
                const uint32_t *pairs = (const uint32_t *)(queries + (int64_t)r * width) + d / 2;
                for (int i = 0; i < 16; i++) *to++ = pairs[i / 4 * 4 + j];
            }
}

/* Scores (n, KEY_BLOCK) of n queries against 16 keys. Keys are transposed only within blocks of 4 x 4; each sum then
   has four parts left to add. */
INLINE void score_16_keys(const uint32_t *queries, const uint16_t *keys, int size, const int n, float *scores,
                          ReadRange o) {
    __m512 acc[4][DECODE_QUERIES];
#pragma GCC unroll 4
    for (int four = 0; four < 4; four++)
        for (int r = 0; r < n; r++) acc[four][r] = _mm512_setzero_ps();
    for (int d = 0; d < size; d += 32) {
        const uint32_t *q = queries + d * 2 * n;
#pragma GCC unroll 4
        for (int four = 0; four < 4; four++) {
            const uint16_t *from = keys + (int64_t)4 * four * size + d;
            __m512i k[4];
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                k[i] = _mm512_loadu_si512(from + (int64_t)i * size);
                prefetch_keys(from + (int64_t)i * size, o);
            }
            transpose_fours(k);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++)
#pragma GCC unroll 4
                for (int r = 0; r < n; r++)
                    acc[four][r] = _mm512_dpbf16_ps(acc[four][r], (__m512bh)k[j],
                                                    (__m512bh)_mm512_loadu_si512(q + (j * n + r) * 16));
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < n; r++) {
        __m512 halves[2];
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            __m512 a = acc[2 * i][r], b = acc[2 * i + 1][r];
            halves[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
        }
        _mm512_storeu_ps(scores + r * KEY_BLOCK, _mm512_add_ps(_mm512_shuffle_f32x4(halves[0], halves[1], 0x88),
                                                               _mm512_shuffle_f32x4(halves[0], halves[1], 0xdd)));
    }
}

/* Add to the scratch memory's mixture of n queries its scores, in bfloat16, times `count` values. */
INLINE void mix_values_bf16(const QueryGroup *m, Scratch *s, const uint16_t *values, int count, const int n,
                            ReadRange o) {
    const char *weights = (const char *)s->scores;
    const int64_t ld = KEY_BLOCK * sizeof *s->scores;
    const int size = m->value_size, width = m->value_width, row = m->value_row;
    float *mixed = s->mixed;
    const __m512i high = _mm512_set_epi16(63, 31, 62, 30, 61, 29, 60, 28, 59, 27, 58, 26, 57, 25, 56, 24, 55, 23, 54,
                                          22, 53, 21, 52, 20, 51, 19, 50, 18, 49, 17, 48, 16);
    const __m512i low = _mm512_sub_epi16(high, _mm512_set1_epi16(16));
    for (int d = 0; d < size; d += 32) {
        __m512 acc[DECODE_QUERIES][2];
        for (int r = 0; r < n; r++)
            for (int i = 0; i < 2; i++) acc[r][i] = _mm512_loadu_ps(mixed + (int64_t)r * width + d + 16 * i);
        for (int k = 0; k < count; k += 2) {
            const uint16_t *from = values + (int64_t)k * row + d;
            __m512i first = _mm512_loadu_si512(from), second = _mm512_setzero_si512();
            if (k + 1 < count) second = _mm512_loadu_si512(from + row);
            prefetch_keys(from, o);
            prefetch_keys(from + row, o);
            __m512i both[2] = {_mm512_permutex2var_epi16(first, low, second),
                               _mm512_permutex2var_epi16(first, high, second)};
#pragma GCC unroll 4
            for (int r = 0; r < n; r++) {
                int32_t pair;
                memcpy(&pair, weights + r * ld + 2 * k, 4);
#pragma GCC unroll 2
                for (int i = 0; i < 2; i++)
                    acc[r][i] = _mm512_dpbf16_ps(acc[r][i], (__m512bh)both[i], (__m512bh)_mm512_set1_epi32(pair));
            }
        }
        for (int r = 0; r < n; r++)
            for (int i = 0; i < 2; i++) _mm512_storeu_ps(mixed + (int64_t)r * width + d + 16 * i, acc[r][i]);
    }
}

/* Round floats to bfloat16 in place. */
static void round_to_bf16(float *x, int n) {
    for (int i = 0; i < n; i += 16) {
        __m256i half = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + i));
        _mm256_storeu_si256((__m256i *)((uint16_t *)x + i), half);
    }
}

/* c (n, ldc) = or += a (n, lda pairs) times b (k pairs, ldb), for 64 columns. */
INLINE void small_bf16_product(const uint32_t *a, int64_t lda, const uint32_t *b, int64_t ldb, float *c, int64_t ldc,
                               const int n, int k, const int vectors, int add) {
    __m512 acc[4][4];
    for (int i = 0; i < n; i++)
        for (int j = 0; j < vectors; j++) acc[i][j] = add ? _mm512_loadu_ps(c + i * ldc + j * 16) : _mm512_setzero_ps();
    for (int d = 0; d < k; d++) {
        __m512bh row[4];
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) row[j] = (__m512bh)_mm512_loadu_si512(b + d * ldb + j * 16);
#pragma GCC unroll 4
        for (int i = 0; i < n; i++) {
            __m512bh pair = (__m512bh)_mm512_set1_epi32((int32_t)a[i * lda + d]);
#pragma GCC unroll 4
            for (int j = 0; j < vectors; j++) acc[i][j] = _mm512_dpbf16_ps(acc[i][j], row[j], pair);
        }
    }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < vectors; j++) _mm512_storeu_ps(c + i * ldc + j * 16, acc[i][j]);
}

static void bf16_product(const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc, int n, int k,
                         int columns, int add) {
    const uint32_t *left = (const uint32_t *)a, *right = (const uint32_t *)b;
    for (int j = 0; j < columns;) {
        int wide = columns - j >= 64;
        for (int i = 0; i < n;) {
            const uint32_t *from = left + i * lda;
            float *to = c + i * ldc + j;
            int rows = n - i >= 4 ? 4 : n - i;
#define FOR_ROWS(r)                                                                        \
    if (rows == r && wide) small_bf16_product(from, lda, right + j, ldb, to, ldc, r, k, 4, add); \
    if (rows == r && !wide) small_bf16_product(from, lda, right + j, ldb, to, ldc, r, k, 2, add);
            FOR_ROWS(4)
            FOR_ROWS(3)
            FOR_ROWS(2)
            FOR_ROWS(1)
#undef FOR_ROWS
            i += rows;
        }
        j += wide ? 64 : 32;
    }
}
/* Scores of the last, fewer than 16 keys, padded with zeros. */
INLINE void score_rest(const uint16_t *keys, int size, int count, const int n, float *scores, Scratch *s) {
    uint16_t *padded = (uint16_t *)s->values;
    memset(padded, 0, (size_t)16 * size * 2);
    memcpy(padded, keys, (size_t)count * size * 2);
    score_16_keys((const uint32_t *)s->keys, padded, size, n, scores, (ReadRange){(const char *)padded, NULL});
}

/* The block of `count` keys and values in bfloat16. */
static CacheBlock block_in_bf16(const QueryGroup *m, const char *keys, const char *values, int count, CacheRanges on,
                                Scratch *s) {
    if (m->format != INT8_ROWS) return (CacheBlock){keys, values, on};
    const char *first = keys;
    uint16_t *to = (uint16_t *)s->unpacked_keys, *value_to = (uint16_t *)s->unpacked_values;
    for (int k = 0; k < count; k++, keys += m->key_step, to += m->size) {
        prefetch_rows(keys, m->key_step, on.keys);
        unpack_int8_row_bf16(keys, m->size, to);
    }
    /* Latent attention mixes the beginnings of its keys. */
    if (values == first)
        return (CacheBlock){(const char *)s->unpacked_keys, (const char *)s->unpacked_keys, {{0}, {0}}};
    for (int k = 0; k < count; k++, values += m->value_step, value_to += m->value_size) {
        prefetch_rows(values, m->value_step, on.values);
        unpack_int8_row_bf16(values, m->value_size, value_to);
    }
    return (CacheBlock){(const char *)s->unpacked_keys, (const char *)s->unpacked_values, {{0}, {0}}};
}

/* Attention of n queries, which `arrange_queries` has put into the scratch memory's keys. */
INLINE void attend_decode_bf16(const QueryGroup *m, const char *keys, const char *values, const int n, Scratch *s,
                               CacheRanges on) {
    for (int64_t key = m->first; key < m->last; key += KEY_BLOCK) {
        int count = m->last - key < KEY_BLOCK ? (int)(m->last - key) : KEY_BLOCK, k = 0;
        CacheBlock block = block_in_bf16(m, keys, values, count, on, s);
        const uint16_t *found = (const uint16_t *)block.keys;
        for (; k + 16 <= count; k += 16)
            score_16_keys((const uint32_t *)s->keys, found + (int64_t)k * m->size, m->size, n, s->scores + k,
                          block.ahead.keys);
        if (k < count) {
            score_rest(found + (int64_t)k * m->size, m->size, count - k, n, s->scores + k, s);
            k += 16;
        }
        for (int r = 0; r < n; r++) {
            online_softmax_block(m, s, r, k, key, count);
            round_to_bf16(s->scores + r * KEY_BLOCK, k);
        }
        mix_values_bf16(m, s, (const uint16_t *)block.values, count, n, block.ahead.values);
        keys += count * m->key_step, values += count * m->value_step;
    }
}

static void attend_blocks_bf16(const QueryGroup *m, const char *keys, const char *values, Scratch *s) {
    for (int64_t key = m->first; key < m->last; key += KEY_BLOCK) {
        int count = m->last - key < KEY_BLOCK ? (int)(m->last - key) : KEY_BLOCK;
        int64_t next = count * m->key_step, bytes = key + KEY_BLOCK < m->last ? next : 0;
        int64_t after = count * m->value_step, part = bytes ? after : 0;
        CacheBlock block = block_in_bf16(m, keys, values, count, (CacheRanges){{0}, {0}}, s);
        pair_keys((const uint16_t *)block.keys, m->size, count, (uint32_t *)s->keys);
        pair_values((const uint16_t *)block.values, m->value_size, m->value_row, count, (uint32_t *)s->values);
        prefetch_bytes(keys + next, bytes / 2);
        bf16_product(s->queries, m->width, s->keys, KEY_BLOCK, s->scores, KEY_BLOCK, m->rows, m->size / 2, KEY_BLOCK,
                     0);
        prefetch_bytes(keys + next + bytes / 2, bytes / 2);
        for (int r = 0; r < m->rows; r++) online_softmax_block(m, s, r, KEY_BLOCK, key, count);
        for (int r = 0; r < m->rows; r++) round_to_bf16(s->scores + r * KEY_BLOCK, KEY_BLOCK);
        prefetch_bytes(values + after, part / 2);
        bf16_product(s->scores, KEY_BLOCK, s->values, m->value_width, s->mixed, m->value_width, m->rows,
                     (count + 1) / 2, m->value_width, 1);
        prefetch_bytes(values + after + part / 2, part / 2);
        keys += next, values += after;
    }
}

/* `keys` and `values` start at the first position. Prefetch continues `next` values after them or, if that is 0, at
   `cursor`. */
static void attend_bf16(const QueryGroup *m, const char *keys, const char *values, int64_t next,
                        PrefetchCursor *cursor, Scratch *s) {
    for (int r = 0; r < m->rows; r++) round_to_bf16(s->queries + r * m->width, m->size);
    if (m->rows > DECODE_QUERIES) {
        attend_blocks_bf16(m, keys, values, s);
        return;
    }
    CacheRanges on = cache_ranges(m, keys, values, next, cursor);
    arrange_queries(s->queries, m->width, m->rows, m->size, (uint32_t *)s->keys);
    switch (m->rows) {
    case 1:
        attend_decode_bf16(m, keys, values, 1, s, on);
        break;
    case 2:
        attend_decode_bf16(m, keys, values, 2, s, on);
        break;
    case 3:
        attend_decode_bf16(m, keys, values, 3, s, on);
        break;
    default:
        attend_decode_bf16(m, keys, values, 4, s, on);
    }
}
#endif

#endif
