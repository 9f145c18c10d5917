/* A row block of 8-bit weights times a tile of tokens: for matmul.h, and for logits/head_screening.h without most lower
   nibbles. */
#ifndef LLM_CPU_MATMUL_INT8_H
#define LLM_CPU_MATMUL_INT8_H

#include "dot_products.h"
#include "portable.h"
#include "weight_prefetch.h"

/* Prefetch lower nibbles: of all groups, or for head screening of the next row block's groups that are read
   completely. */
INLINE void prefetch_rest(const uint8_t *rest, int g, int groups, const float *error_weights, const ReadPlan *c) {
    if (!error_weights)
        prefetch_lines((const char *)rest + NIBBLE_BYTES * g + HALF_DISTANCE, c->rest, 4);
    else if (is_read_whole(error_weights, g))
        prefetch_lines((const char *)rest + NIBBLE_BYTES * (groups + g), c->rest, 4);
}

#ifdef USE_AVX512

/* Join the nibbles of 8-bit codes; `lower` NULL: zeros. */
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
                         const int32_t *shift, const int n, float *sums, const float *error_weights,
                         const ReadPlan *plan) {
    const int step = n < 4 ? n : 4;
    __m512 acc[TILE], error = _mm512_setzero_ps();
    for (int t = 0; t < n; t++) acc[t] = _mm512_setzero_ps();
    for (int g = 0; g < groups; g++) {
        const int is_whole = is_read_whole(error_weights, g);
        __m512i q[8];
        if (is_whole)
            join_nibbles(w.codes + NIBBLE_BYTES * g, w.rest + NIBBLE_BYTES * g, q);
        else
            join_nibbles(w.codes + NIBBLE_BYTES * g, NULL, q);
        __m512 d = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(w.scales + INT8_SCALE_BYTES * g)));
        prefetch_near(PACKED8, w.scales, g, plan);
        prefetch_rest(w.rest, g, groups, error_weights, plan);
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
            error = _mm512_fmadd_ps(_mm512_mul_ps(d, d), _mm512_set1_ps(error_weights[g]), error);
        }
        codes += INPUT_CODES * n, scale += n, total += n, shift += n;
    }
    for (int t = 0; t < n; t++) _mm512_storeu_ps(sums + t * BLOCK_ROWS, acc[t]);
    if (error_weights) _mm512_storeu_ps(sums + BLOCK_ROWS, _mm512_sqrt_ps(error));
}

#elif defined(USE_AVX2)

INLINE void packed8_tile(Weights w, int groups, const int8_t *codes, const float *scale, const float *total,
                         const int32_t *shift, const int n, float *sums, const float *error_weights,
                         const ReadPlan *plan) {
    const __m256i even = _mm256_set1_epi16(255), low = _mm256_set1_epi8(15), high = _mm256_set1_epi8(-16);
    for (int half = 0; half < 2; half++) {
        __m256 acc[TILE], error = _mm256_setzero_ps();
        for (int t = 0; t < n; t++) acc[t] = _mm256_setzero_ps();
        for (int g = 0; g < groups; g++) {
            const int8_t *c = codes + (int64_t)g * INPUT_CODES * n;
            const uint8_t *scales = w.scales + INT8_SCALE_BYTES * g + 16 * half;
            const int is_whole = is_read_whole(error_weights, g);
            __m256 d = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)scales));
            __m256i q[8];
            if (half == 0) {
                prefetch_near(PACKED8, w.scales, g, plan);
                prefetch_rest(w.rest, g, groups, error_weights, plan);
            }
            for (int j = 0; j < 4; j++) {
                __m256i u = _mm256_loadu_si256((const __m256i *)(w.codes + NIBBLE_BYTES * g + 64 * j + 32 * half));
                q[2 * j] = _mm256_and_si256(_mm256_slli_epi16(u, 4), high);
                q[2 * j + 1] = _mm256_and_si256(u, high);
                if (!is_whole) continue;
                __m256i l = _mm256_loadu_si256((const __m256i *)(w.rest + NIBBLE_BYTES * g + 64 * j + 32 * half));
                q[2 * j] = _mm256_or_si256(q[2 * j], _mm256_and_si256(l, low));
                q[2 * j + 1] = _mm256_or_si256(q[2 * j + 1], _mm256_and_si256(_mm256_srli_epi16(l, 4), low));
            }
            for (int t = 0; t < n; t++) {
                __m256i dot = _mm256_setzero_si256();
                for (int j = 0; j < 16; j++) {
                    /* Sums of products of 8 bits by 8 do not fit 16 bits: columns 0 and 2 separate from 1 and 3, in 16
                       bits each. */
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
            error = _mm256_fmadd_ps(_mm256_mul_ps(d, d), _mm256_set1_ps(error_weights[g]), error);
        }
        for (int t = 0; t < n; t++) _mm256_storeu_ps(sums + t * BLOCK_ROWS + 8 * half, acc[t]);
        if (error_weights) _mm256_storeu_ps(sums + BLOCK_ROWS + 8 * half, _mm256_sqrt_ps(error));
    }
}

#else

INLINE void packed8_tile(Weights w, int groups, const int8_t *codes, const float *scale, const float *total,
                         const int32_t *shift, const int n, float *sums, const float *error_weights,
                         const ReadPlan *plan) {
    (void)plan;
    portable_tile(w, groups, codes, scale, total, shift, n, sums, 8, error_weights);
}

#endif

#endif
