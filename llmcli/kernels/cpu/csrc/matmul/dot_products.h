/* Integer dot products of packed weights with quantized activations, for int4.h and int8.h on
   processors with AVX-512. */
#ifndef LLM_CPU_MATMUL_DOT_PRODUCTS_H
#define LLM_CPU_MATMUL_DOT_PRODUCTS_H

#include "layout.h"
#include "../simd/vector.h"

#ifdef USE_AVX512

INLINE __m512i four_columns(const int8_t *codes) {
    int32_t four;
    memcpy(&four, codes, 4);
    return _mm512_set1_epi32(four);
}

/* Dot products of 32 columns with `count` of n tokens from the t-th: upper bytes, times 256, plus lower bytes. With
   fewer than four tokens every second vector of `q` may be scaled by 2^odd. */
INLINE void multiply_group(const __m512i q[8], const int8_t *codes, const int n, const int t, const int count,
                           const int odd, __m512i *dots) {
    /* An instruction waits four cycles for the sum it adds to: four sums are computed in turn. */
    if (count >= 4) {
        for (int i = 0; i < count; i++) dots[i] = _mm512_setzero_si512();
#pragma GCC unroll 16
        for (int j = 0; j < 16; j++) {
#pragma GCC unroll 4
            for (int i = 0; i < count; i++) {
                if (j == 8) dots[i] = _mm512_slli_epi32(dots[i], 8);
                dots[i] = _mm512_dpbusd_epi32(dots[i], q[j % 8], four_columns(codes + 4 * (j * n + t + i)));
            }
        }
        return;
    }
#pragma GCC unroll 2
    for (int i = 0; i < count; i++) {
        __m512i sums[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(),
                           _mm512_setzero_si512()};
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            const int8_t *at = codes + 4 * (j * n + t + i);
            sums[j % 2] = _mm512_dpbusd_epi32(sums[j % 2], q[j], four_columns(at));
            sums[2 + j % 2] = _mm512_dpbusd_epi32(sums[2 + j % 2], q[j], four_columns(at + 32 * n));
        }
        if (odd) {
            sums[1] = _mm512_slli_epi32(sums[1], 8 - odd);
            sums[0] = _mm512_add_epi32(_mm512_slli_epi32(sums[0], 8), sums[1]);
            sums[3] = _mm512_srai_epi32(sums[3], odd);
        } else {
            sums[0] = _mm512_slli_epi32(_mm512_add_epi32(sums[0], sums[1]), 8);
        }
        dots[i] = _mm512_add_epi32(sums[0], _mm512_add_epi32(sums[2], sums[3]));
    }
}

#endif

#endif
