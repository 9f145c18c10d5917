/* A row block of 4-bit weights, with a scale and a minimum for each group, times a tile of tokens: for matmul.h. */
#ifndef LLM_CPU_MATMUL_INT4_H
#define LLM_CPU_MATMUL_INT4_H

#include "dot_products.h"
#include "portable.h"
#include "weight_prefetch.h"

#ifdef USE_AVX512

INLINE void packed4_tile(Weights w, int groups, const int8_t *codes, const float *scale, const float *total,
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

#elif defined(USE_AVX2)

INLINE void packed4_tile(Weights w, int groups, const int8_t *codes, const float *scale, const float *total,
                         const int n, float *sums, const ReadPlan *plan) {
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    for (int half = 0; half < 2; half++) {
        __m256 acc[TILE];
        for (int t = 0; t < n; t++) acc[t] = _mm256_setzero_ps();
        for (int g = 0; g < groups; g++) {
            const int8_t *c = codes + (int64_t)g * INPUT_CODES * n;
            const uint8_t *block = w.codes + INT4_CODE_BYTES * g + 32 * half;
            const __m128i *halves = (const __m128i *)(w.scales + INT4_SCALE_BYTES * g + 16 * half);
            __m256 d = _mm256_cvtph_ps(_mm_loadu_si128(halves)), m = _mm256_cvtph_ps(_mm_loadu_si128(halves + 2));
            if (half == 0) prefetch_group(PACKED4, w.scales, g, plan);
            for (int t = 0; t < n; t++) {
                /* Eight sums of two products fit 16 bits: 16 * 15 * 128 < 2^15. */
                __m256i pairs[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
                for (int j = 0; j < 4; j++) {
                    __m256i both = _mm256_loadu_si256((const __m256i *)(block + 64 * j));
                    __m256i q[2] = {_mm256_and_si256(both, low), _mm256_and_si256(_mm256_srli_epi16(both, 4), low)};
                    for (int i = 0; i < 4; i++) {
                        const int8_t *from = c + 4 * ((2 * j + i % 2 + i / 2 * 8) * n + t);
                        pairs[i / 2] =
                            _mm256_add_epi16(pairs[i / 2], _mm256_maddubs_epi16(q[i % 2], four_columns(from)));
                    }
                }
                __m256i upper = _mm256_slli_epi32(_mm256_madd_epi16(pairs[0], ones), 8);
                __m256 dot = _mm256_cvtepi32_ps(_mm256_add_epi32(upper, _mm256_madd_epi16(pairs[1], ones)));
                acc[t] = _mm256_fmadd_ps(dot, _mm256_mul_ps(d, _mm256_set1_ps(scale[g * n + t])), acc[t]);
                acc[t] = _mm256_fmadd_ps(m, _mm256_set1_ps(total[g * n + t]), acc[t]);
            }
        }
        for (int t = 0; t < n; t++) _mm256_storeu_ps(sums + t * BLOCK_ROWS + 8 * half, acc[t]);
    }
}

#else

INLINE void packed4_tile(Weights w, int groups, const int8_t *codes, const float *scale, const float *total,
                         const int n, float *sums, const ReadPlan *plan) {
    (void)plan;
    portable_tile(w, groups, codes, scale, total, NULL, n, sums, 4);
}

#endif

#endif
