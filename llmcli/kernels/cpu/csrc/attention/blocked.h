/* Attention in float32 over blocks of transposed keys, from a cache of any format: prefill, and the shapes that
   decode.h and bf16.h do not cover. Called by attend.h. */
#ifndef LLM_CPU_ATTENTION_BLOCKED_H
#define LLM_CPU_ATTENTION_BLOCKED_H

#include "decode.h"
#include "online_softmax.h"
#include "../runtime/prefetch.h"
#include "../simd/half.h"
#include "../simd/transpose.h"

/* c (n, ldc) = or += a (n, lda) times b (k, ldb), for 4 vectors' width of columns. */
INLINE void small_float_product(const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc,
                                const int n, int k, const int vectors, int add) {
    vf acc[4][4];
    for (int i = 0; i < n; i++)
        for (int j = 0; j < vectors; j++) acc[i][j] = add ? load(c + i * ldc + j * LANES) : (vf){0};
    for (int d = 0; d < k; d++) {
        vf row[4];
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) row[j] = load(b + d * ldb + j * LANES);
#pragma GCC unroll 4
        for (int i = 0; i < n; i++) {
            float factor = a[i * lda + d];
#pragma GCC unroll 4
            for (int j = 0; j < vectors; j++) acc[i][j] += row[j] * factor;
        }
    }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < vectors; j++) store(c + i * ldc + j * LANES, acc[i][j]);
}

static void float_product(const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc, int n, int k,
                          int columns, int add) {
    for (int j = 0; j < columns;) {
        /* Wide enough to use each factor often, narrow enough for the number of registers. */
        int vectors = LANES == 16 && columns - j >= 4 * LANES ? 4 : columns - j >= 2 * LANES ? 2 : 1;
        for (int i = 0; i < n;) {
            const float *from = a + i * lda;
            float *to = c + i * ldc + j;
#define FOR_SIZE(rows, width)                                                          \
    if (n - i >= rows && vectors == width) {                                           \
        small_float_product(from, lda, b + j, ldb, to, ldc, rows, k, width, add);            \
        i += rows;                                                                     \
        continue;                                                                      \
    }
            FOR_SIZE(4, 4)
            FOR_SIZE(3, 4)
            FOR_SIZE(2, 4)
            FOR_SIZE(1, 4)
            FOR_SIZE(4, 2)
            FOR_SIZE(1, 2)
            FOR_SIZE(4, 1)
            FOR_SIZE(1, 1)
#undef FOR_SIZE
        }
        j += vectors * LANES;
    }
}

/* Transpose keys (count, size) of the cache to (size, KEY_BLOCK) in float32. */
static void transpose_keys(const char *from, int bf16, int size, int count, float *to) {
    int k = 0;
#ifdef USE_AVX512
    for (; k + 16 <= count; k += 16) {
        int d = 0;
        for (; d + (bf16 ? 32 : 16) <= size; d += bf16 ? 32 : 16) {
            __m512i r[16];
            transpose16(from + ((int64_t)k * size + d) * (bf16 ? 2 : 4), (int64_t)size * (bf16 ? 2 : 4), r);
            for (int i = 0; i < 16; i++) {
                if (bf16) {
                    _mm512_storeu_si512(to + (d + 2 * i) * KEY_BLOCK + k, _mm512_slli_epi32(r[i], 16));
                    _mm512_storeu_si512(to + (d + 2 * i + 1) * KEY_BLOCK + k,
                                        _mm512_and_si512(r[i], _mm512_set1_epi32((int)0xffff0000u)));
                } else {
                    _mm512_storeu_si512(to + (d + i) * KEY_BLOCK + k, r[i]);
                }
            }
        }
        for (; d < size; d++)
            for (int i = k; i < k + 16; i++)
                to[d * KEY_BLOCK + i] = bf16 ? from_bf16(((const uint16_t *)from)[(int64_t)i * size + d])
                                        : ((const float *)from)[(int64_t)i * size + d];
    }
#endif
    for (; k < count; k++)
        for (int d = 0; d < size; d++)
            to[d * KEY_BLOCK + k] = bf16 ? from_bf16(((const uint16_t *)from)[(int64_t)k * size + d])
                                    : ((const float *)from)[(int64_t)k * size + d];
}

/* Values (count, size) of the cache, a row every `row` values, to (count, width) in float32. */
static void copy_values(const char *from, int bf16, int size, int row, int width, int count, float *to) {
    for (int k = 0; k < count; k++) {
        int d = 0;
        for (; d + LANES <= size; d += LANES)
            store(to + k * width + d, bf16 ? load_bf16((const uint16_t *)from + (int64_t)k * row + d)
                                           : load((const float *)from + (int64_t)k * row + d));
        for (; d < size; d++)
            to[k * width + d] = bf16 ? from_bf16(((const uint16_t *)from)[(int64_t)k * row + d])
                                     : ((const float *)from)[(int64_t)k * row + d];
    }
}

/* In float32, from a cache of any format. */
static void attend_float(const QueryGroup *m, const char *keys, const char *values, int bf16, Scratch *s) {
    for (int64_t key = m->first; key < m->last; key += KEY_BLOCK) {
        int count = m->last - key < KEY_BLOCK ? (int)(m->last - key) : KEY_BLOCK;
        int64_t next = count * m->key_step, half = key + KEY_BLOCK < m->last ? next / 2 : 0;
        int64_t after = count * m->value_step, part = half ? after / 2 : 0;
        CacheBlock block = block_in_float(m, keys, values, count, (CacheRanges){{0}, {0}}, s);
        prefetch_bytes(keys + next, half);
        transpose_keys(block.keys, bf16, m->size, count, s->keys);
        prefetch_bytes(keys + next + half, half);
        copy_values(block.values, bf16, m->value_size, m->value_row, m->value_width, count, s->values);
        prefetch_bytes(values + after, part);
        float_product(s->queries, m->width, s->keys, KEY_BLOCK, s->scores, KEY_BLOCK, m->rows, m->size, KEY_BLOCK, 0);
        prefetch_bytes(values + after + part, part);
        for (int r = 0; r < m->rows; r++) online_softmax_block(m, s, r, KEY_BLOCK, key, count);
        float_product(s->scores, KEY_BLOCK, s->values, m->value_width, s->mixed, m->value_width, m->rows, count,
                      m->value_width, 1);
        keys += next, values += after;
    }
}

#endif
