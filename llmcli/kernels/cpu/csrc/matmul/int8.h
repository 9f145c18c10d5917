/* A row block of 8-bit weights times a tile of tokens: for matmul.h. */
#ifndef LLM_CPU_MATMUL_INT8_H
#define LLM_CPU_MATMUL_INT8_H

#include "dot_products.h"
#include "portable.h"
#include "weight_prefetch.h"

#ifdef USE_AVX512

INLINE void packed8_tile(Weights w, int groups, const int8_t *codes, const float *scale, const int32_t *shift,
                         const int n, float *sums, const ReadPlan *plan) {
    const int step = n < 4 ? n : 4;
    __m512 acc[TILE];
    for (int t = 0; t < n; t++) acc[t] = _mm512_setzero_ps();
    for (int g = 0; g < groups; g++) {
        __m512i q[8];
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) q[j] = _mm512_loadu_si512(w.codes + INT8_CODE_BYTES * g + 64 * j);
        __m512 d = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(w.scales + INT8_SCALE_BYTES * g)));
        prefetch_group(PACKED8, w.scales, g, plan);
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
        codes += INPUT_CODES * n, scale += n, shift += n;
    }
    for (int t = 0; t < n; t++) _mm512_storeu_ps(sums + t * BLOCK_ROWS, acc[t]);
}

#elif defined(USE_AVX2)

INLINE void packed8_tile(Weights w, int groups, const int8_t *codes, const float *scale, const int32_t *shift,
                         const int n, float *sums, const ReadPlan *plan) {
    const __m256i even = _mm256_set1_epi16(255);
    for (int half = 0; half < 2; half++) {
        __m256 acc[TILE];
        for (int t = 0; t < n; t++) acc[t] = _mm256_setzero_ps();
        for (int g = 0; g < groups; g++) {
            const int8_t *c = codes + (int64_t)g * INPUT_CODES * n;
            const uint8_t *scales = w.scales + INT8_SCALE_BYTES * g + 16 * half;
            __m256 d = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)scales));
            __m256i q[8];
            if (half == 0) prefetch_group(PACKED8, w.scales, g, plan);
            for (int j = 0; j < 8; j++)
                q[j] = _mm256_loadu_si256((const __m256i *)(w.codes + INT8_CODE_BYTES * g + 64 * j + 32 * half));
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
        }
        for (int t = 0; t < n; t++) _mm256_storeu_ps(sums + t * BLOCK_ROWS + 8 * half, acc[t]);
    }
}

#else

INLINE void packed8_tile(Weights w, int groups, const int8_t *codes, const float *scale, const int32_t *shift,
                         const int n, float *sums, const ReadPlan *plan) {
    (void)plan;
    portable_tile(w, groups, codes, scale, NULL, shift, n, sums, 8);
}

#endif

#endif
