/* A row block of 8-bit weights times a tile of tokens: for matmul.h. */
#ifndef LLM_CPU_MATMUL_INT8_H
#define LLM_CPU_MATMUL_INT8_H

#include "avx2.h"
#include "dot_products.h"
#include "neon.h"
#include "portable.h"
#include "weight_prefetch.h"

#ifdef USE_AVX512

INLINE void packed8_tile(Weights w, int groups, const Code *codes, const float *scale, const int32_t *shift,
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

#else

INLINE void packed8_tile(Weights w, int groups, const Code *codes, const float *scale, const int32_t *shift,
                         const int n, float *sums, const ReadPlan *plan) {
    any_tile(w, groups, codes, scale, NULL, shift, n, sums, plan, 8);
}

#endif

#endif
