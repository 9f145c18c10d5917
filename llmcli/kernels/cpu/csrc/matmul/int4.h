/* A row block of 4-bit weights, with a scale and a minimum for each group, times a tile of tokens: for matmul.h. */
#ifndef LLM_CPU_MATMUL_INT4_H
#define LLM_CPU_MATMUL_INT4_H

#include "avx2.h"
#include "dot_products.h"
#include "neon.h"
#include "portable.h"
#include "weight_prefetch.h"

#ifdef USE_AVX512

INLINE void packed4_tile(Weights w, int groups, const Code *codes, const float *scale, const float *total,
                         const int n, float *sums, const ReadPlan *plan) {
    const __m512i low = _mm512_set1_epi8(15);
    /* For few tokens shifting sums is faster than shifting codes. */
    const int step = n < 4 ? n : 4, odd = n < 4 ? 4 : 0;
    __m512 acc[TILE];
    for (int t = 0; t < n; t++) acc[t] = _mm512_setzero_ps();
    for (int g = 0; g < groups; g++) {
        __m512i q[8];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m512i both = _mm512_loadu_si512(w.codes + INT4_CODE_BYTES * g + 64 * j);
            q[2 * j] = _mm512_and_si512(both, low);
            q[2 * j + 1] = odd ? _mm512_andnot_si512(low, both) : _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
        }
        const __m256i *halves = (const __m256i *)(w.scales + INT4_SCALE_BYTES * g);
        __m512 d = _mm512_cvtph_ps(_mm256_loadu_si256(halves)), m = _mm512_cvtph_ps(_mm256_loadu_si256(halves + 1));
        prefetch_group(PACKED4, w.scales, g, plan);
#pragma GCC unroll 4
        for (int t = 0; t < n; t += step) {
            __m512i dots[4];
            multiply_group(q, codes, n, t, step, odd, dots);
#pragma GCC unroll 4
            for (int i = 0; i < step; i++) {
                __m512 factor = _mm512_mul_ps(d, _mm512_set1_ps(scale[t + i]));
                acc[t + i] = _mm512_fmadd_ps(m, _mm512_set1_ps(total[t + i]), acc[t + i]);
                acc[t + i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[i]), factor, acc[t + i]);
            }
        }
        codes += INPUT_CODES * n, scale += n, total += n;
    }
    for (int t = 0; t < n; t++) _mm512_storeu_ps(sums + t * BLOCK_ROWS, acc[t]);
}

#else

INLINE void packed4_tile(Weights w, int groups, const Code *codes, const float *scale, const float *total,
                         const int n, float *sums, const ReadPlan *plan) {
    any_tile(w, groups, codes, scale, total, NULL, n, sums, plan, 4);
}

#endif

#endif
