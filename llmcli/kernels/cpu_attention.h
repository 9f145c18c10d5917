/* Softmax attention by blocks of keys: a query keeps the greatest score so far, the sum of its exponentials and the
   mixture of values, and corrects the latter two whenever a greater score comes (Milakov & Gimelshein 2018,
   arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135). */
#ifndef LLM_CPU_ATTENTION_H
#define LLM_CPU_ATTENTION_H

#include "cpu_simd.h"
#include "cpu_types.h"

enum { KEYS = 64, MOST_QUERIES = 64 };

static const float NEVER = -1e30f; /* the score of what a query does not see */

/* Working memory of one thread; width is the head's size rounded up to a vector. */
typedef struct {
    float *queries; /* (MOST_QUERIES, width), scaled */
    float *keys;    /* (width, KEYS): transposed */
    float *values;  /* (KEYS, width) */
    float *scores;  /* (MOST_QUERIES, KEYS) */
    float *mixed;   /* (MOST_QUERIES, width) */
    float *most, *sums;
} Scratch;

/* c (n, ldc) = or += a (n, lda) times b (k, ldb), for 4 vectors' width of columns. */
INLINE void small_product(const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc, const int n,
                          int k, const int vectors, int add) {
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

static void product(const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc, int n, int k,
                    int columns, int add) {
    for (int j = 0; j < columns;) {
        /* Wide enough to use each factor often, narrow enough for the registers there are. */
        int vectors = LANES == 16 && columns - j >= 4 * LANES ? 4 : columns - j >= 2 * LANES ? 2 : 1;
        for (int i = 0; i < n;) {
            const float *from = a + i * lda;
            float *to = c + i * ldc + j;
#define FOR_SIZE(rows, width)                                                          \
    if (n - i >= rows && vectors == width) {                                           \
        small_product(from, lda, b + j, ldb, to, ldc, rows, k, width, add);            \
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

#ifdef USE_AVX512
/* Sixteen rows of sixteen 32-bit numbers, `stride` bytes apart, exchanged. */
INLINE void transpose16(const char *from, int64_t stride, __m512i r[16]) {
    __m512i t[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_si512(from + i * stride);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}
#endif

#if defined(USE_AVX512) && defined(__AVX512BF16__)
#define USE_BF16 1
/* Fewer rows than this are bound by reading keys and values anyway; more are multiplied in bfloat16, which is as precise
   as what is cached, at twice the speed. */
enum { BF16_ROWS = 12 };

/* Keys (count, size) into pairs of consecutive values: (size / 2, KEYS, 2). */
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
            for (int i = 0; i < 16; i++) _mm512_storeu_si512(to + (d / 2 + i) * KEYS + k, r[i]);
        }
    }
}

/* Values (count, size) into pairs of consecutive keys: (count / 2, size, 2), the last pair filled up with zero. */
static void pair_values(const uint16_t *from, int size, int count, uint32_t *to) {
    const __m512i odd = _mm512_set_epi16(31, 63, 30, 62, 29, 61, 28, 60, 27, 59, 26, 58, 25, 57, 24, 56, 23, 55, 22, 54,
                                         21, 53, 20, 52, 19, 51, 18, 50, 17, 49, 16, 48);
    const __m512i low = _mm512_sub_epi16(odd, _mm512_set1_epi16(16));
    for (int k = 0; k < count; k += 2) {
        for (int d = 0; d < size; d += 32) {
            __m512i second = _mm512_loadu_si512(from + (int64_t)k * size + d), first = _mm512_setzero_si512();
            if (k + 1 < count) first = _mm512_loadu_si512(from + (int64_t)(k + 1) * size + d);
            _mm512_storeu_si512(to + k / 2 * size + d, _mm512_permutex2var_epi16(first, low, second));
            _mm512_storeu_si512(to + k / 2 * size + d + 16, _mm512_permutex2var_epi16(first, odd, second));
        }
    }
}

/* Floats to bfloat16 in the same place. */
static void shrink(float *x, int n) {
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
            int rows = n - i >= 4 ? 4 : 1;
            if (rows == 4 && wide) small_bf16_product(from, lda, right + j, ldb, to, ldc, 4, k, 4, add);
            else if (rows == 4) small_bf16_product(from, lda, right + j, ldb, to, ldc, 4, k, 2, add);
            else if (wide) small_bf16_product(from, lda, right + j, ldb, to, ldc, 1, k, 4, add);
            else small_bf16_product(from, lda, right + j, ldb, to, ldc, 1, k, 2, add);
            i += rows;
        }
        j += wide ? 64 : 32;
    }
}
#endif

/* Keys (count, size) of the cache into (size, KEYS) of float32. */
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
                    _mm512_storeu_si512(to + (d + 2 * i) * KEYS + k, _mm512_slli_epi32(r[i], 16));
                    _mm512_storeu_si512(to + (d + 2 * i + 1) * KEYS + k,
                                        _mm512_and_si512(r[i], _mm512_set1_epi32((int)0xffff0000u)));
                } else {
                    _mm512_storeu_si512(to + (d + i) * KEYS + k, r[i]);
                }
            }
        }
        for (; d < size; d++)
            for (int i = k; i < k + 16; i++)
                to[d * KEYS + i] = bf16 ? from_bf16(((const uint16_t *)from)[(int64_t)i * size + d])
                                        : ((const float *)from)[(int64_t)i * size + d];
    }
#endif
    for (; k < count; k++)
        for (int d = 0; d < size; d++)
            to[d * KEYS + k] = bf16 ? from_bf16(((const uint16_t *)from)[(int64_t)k * size + d])
                                    : ((const float *)from)[(int64_t)k * size + d];
}

static void copy_values(const char *from, int bf16, int size, int width, int count, float *to) {
    for (int k = 0; k < count; k++) {
        int d = 0;
        for (; d + LANES <= size; d += LANES)
            store(to + k * width + d, bf16 ? load_bf16((const uint16_t *)from + (int64_t)k * size + d)
                                           : load((const float *)from + (int64_t)k * size + d));
        for (; d < size; d++)
            to[k * width + d] = bf16 ? from_bf16(((const uint16_t *)from)[(int64_t)k * size + d])
                                     : ((const float *)from)[(int64_t)k * size + d];
    }
}

static int64_t first_visible(const Layer *layer, int64_t position) {
    if (layer->window > 0) return position + 1 > layer->window ? position + 1 - layer->window : 0;
    return layer->chunk > 0 ? position / layer->chunk * layer->chunk : 0;
}

/* Scores (KEYS) of one query against a block of keys from position `key` become exponentials; the greatest score and
   the sum are brought up to date, and what was mixed so far is corrected. */
static void take_in(float *scores, int from, int to, float cap, float *most, float *total, float *mixed, int width) {
    if (from >= to) {
        memset(scores, 0, KEYS * sizeof *scores);
        return;
    }
    if (cap > 0)
        for (int i = 0; i < KEYS; i += LANES) store(scores + i, cap * vtanh(load(scores + i) * (1 / cap)));
    for (int i = 0; i < from; i++) scores[i] = NEVER;
    for (int i = to; i < KEYS; i++) scores[i] = NEVER;
    vf best = load(scores);
    for (int i = LANES; i < KEYS; i += LANES) best = vmax(best, load(scores + i));
    float now = greatest(best);
    if (now > *most) {
        float factor = *most == NEVER ? 0 : expf(*most - now);
        *total *= factor;
        for (int d = 0; d < width; d += LANES) store(mixed + d, load(mixed + d) * factor);
        *most = now;
    }
    vf added = {0};
    for (int i = 0; i < KEYS; i += LANES) {
        vf s = load(scores + i), p = pick(s > NEVER, vexp(s - *most), all(0));
        added += p;
        store(scores + i, p);
    }
    *total += sum(added);
}

/* What will be needed soon, a part at a time: a core can wait for two dozen lines at once, and computes meanwhile. */
INLINE void ask_for(const char *from, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i, 0, 2);
}

/* Attention of `tokens` tokens from position `start` on, for the query heads of one kv head, over the keys from
   `first` to `last`. `queries` (tokens, ld) points at the group's first head. Leaves mixed (tokens * group, width), most and sums in the
   scratch memory. */
static void attend(const Model *model, const Layer *layer, const Segment *segment, int kv_head, const float *queries,
                   int64_t ld, int64_t start, int tokens, int64_t first, int64_t last, int width, Scratch *s) {
    int group = model->heads / model->kv_heads, size = model->head_dim, bf16 = model->cache_format == BFLOAT16;
    int rows = tokens * group, bytes = bf16 ? 2 : 4;
    for (int r = 0; r < rows; r++) {
        const float *q = queries + r / group * ld + r % group * size;
        for (int d = 0; d < size; d++) s->queries[r * width + d] = q[d] * model->scale;
        s->most[r] = NEVER, s->sums[r] = 0;
    }
    memset(s->mixed, 0, (size_t)rows * width * sizeof(float));
    int paired = 0;
#ifdef USE_BF16
    paired = bf16 && rows >= BF16_ROWS && size % 32 == 0;
    if (paired)
        for (int r = 0; r < rows; r++) shrink(s->queries + r * width, size);
#endif
    for (int64_t key = first; key < last; key += KEYS) {
        int count = last - key < KEYS ? (int)(last - key) : KEYS;
        int64_t at = ((int64_t)kv_head * segment->size + key - segment->first) * size * bytes;
        const char *keys = (const char *)segment->keys + at, *values = (const char *)segment->values + at;
        int64_t next = key + KEYS < last ? (int64_t)count * size * bytes : 0;
        ask_for(keys + next, next / 2);
        if (paired) {
#ifdef USE_BF16
            pair_keys((const uint16_t *)keys, size, count, (uint32_t *)s->keys);
            pair_values((const uint16_t *)values, size, count, (uint32_t *)s->values);
            bf16_product(s->queries, width, s->keys, KEYS, s->scores, KEYS, rows, size / 2, KEYS, 0);
#endif
        } else {
            transpose_keys(keys, bf16, size, count, s->keys);
            ask_for(keys + next + next / 2, next / 2);
            copy_values(values, bf16, size, width, count, s->values);
            ask_for(values + next, next / 2);
            product(s->queries, width, s->keys, KEYS, s->scores, KEYS, rows, size, KEYS, 0);
        }
        ask_for(values + next + next / 2, next / 2);
        for (int r = 0; r < rows; r++) {
            int64_t position = start + r / group, from = first_visible(layer, position) - key, to = position + 1 - key;
            if (to > count) to = count;
            take_in(s->scores + r * KEYS, from > 0 ? (from < KEYS ? (int)from : KEYS) : 0, to > 0 ? (int)to : 0,
                    model->softcap, s->most + r, s->sums + r, s->mixed + (int64_t)r * width, width);
        }
        if (paired) {
#ifdef USE_BF16
            for (int r = 0; r < rows; r++) shrink(s->scores + r * KEYS, KEYS);
            bf16_product(s->scores, KEYS, s->values, width, s->mixed, width, rows, (count + 1) / 2, width, 1);
#endif
        } else {
            product(s->scores, KEYS, s->values, width, s->mixed, width, rows, count, width, 1);
        }
    }
}

#endif
