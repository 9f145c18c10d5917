/* Row blocks of 4-bit and 8-bit weights times a tile of tokens, for processors with AVX2. Called by int4.h and
   int8.h. */
#ifndef LLM_CPU_MATMUL_AVX2_H
#define LLM_CPU_MATMUL_AVX2_H

#include "weight_prefetch.h"

#ifdef USE_AVX2

INLINE __m256i two_columns(const Code *codes) {
    int32_t two;
    memcpy(&two, codes, sizeof two);
    return _mm256_set1_epi32(two);
}

/* Add the products of two columns, `q` of each half of a row block, with `count` tokens; their codes are 4 apart. */
INLINE void multiply_two(const __m256i q[2], const int halves, const Code *codes, const int count,
                         __m256i dots[4][2]) {
#pragma GCC unroll 4
    for (int i = 0; i < count; i++) {
        __m256i two = two_columns(codes + 4 * i);
#pragma GCC unroll 2
        for (int h = 0; h < halves; h++) {
            dots[i][h] = _mm256_add_epi32(dots[i][h], _mm256_madd_epi16(q[h], two));
            /* Or GCC computes all products before it adds them, and stores them in memory meanwhile. */
            __asm__("" : "+x"(dots[i][h]));
        }
    }
}

/* `total` is only used with 4 bits, `shift` only with 8. A single token is multiplied with both halves of a row block
   at once, which share the loads of its codes. The loops over tokens and columns are not unrolled: the code would not
   fit the cache of decoded instructions. */
INLINE void any_tile(Weights w, int groups, const Code *codes, const float *scale, const float *total,
                     const int32_t *shift, const int n, float *sums, const ReadPlan *plan, const int bits) {
    const int format = bits == 4 ? PACKED4 : PACKED8, step = n < 4 ? n : 4, halves = n == 1 ? 2 : 1;
    const __m256i low = _mm256_set1_epi16((1 << bits) - 1);
    for (int half = 0; half < 2; half += halves) {
        __m256 acc[TILE][2];
        for (int t = 0; t < n; t++) acc[t][0] = acc[t][1] = _mm256_setzero_ps();
        for (int g = 0; g < groups; g++) {
            const uint8_t *block = w.codes + code_bytes(format, g) + 32 * half;
            const __m128i *scales =
                (const __m128i *)(w.scales + (bits == 4 ? INT4_SCALE_BYTES : INT8_SCALE_BYTES) * g + 16 * half);
            if (half == 0) prefetch_group(format, w.scales, g, plan);
#pragma GCC unroll 1
            for (int t = 0; t < n; t += step) {
                const Code *at = codes + (int64_t)g * INPUT_CODES * n + 4 * t;
                const int64_t first = (int64_t)g * n + t;
                __m256i dots[4][2];
                for (int i = 0; i < step; i++)
                    dots[i][0] = dots[i][1] = _mm256_set1_epi32(bits == 8 ? shift[first + i] : 0);
                /* A load has 8 columns of 4 bits or 4 of 8 bits. */
#pragma GCC unroll 1
                for (int j = 0; j < bits; j++, at += 32 / bits * n) {
                    __m256i q[4][2];
#pragma GCC unroll 2
                    for (int h = 0; h < halves; h++) {
                        __m256i all = _mm256_loadu_si256((const __m256i *)(block + 64 * j + 32 * h));
                        q[0][h] = _mm256_and_si256(all, low);
                        q[1][h] = _mm256_srli_epi16(all, 8);
                        if (bits == 8) continue;
                        q[1][h] = _mm256_and_si256(q[1][h], low);
                        q[2][h] = _mm256_and_si256(_mm256_srli_epi16(all, 4), low);
                        q[3][h] = _mm256_srli_epi16(all, 12);
                    }
#pragma GCC unroll 4
                    for (int k = 0; k < 16 / bits; k++)
                        multiply_two(q[k], halves, at + 4 * n * (k / 2) + 2 * (k % 2), step, dots);
                }
#pragma GCC unroll 2
                for (int h = 0; h < halves; h++) {
                    __m256 d = _mm256_cvtph_ps(_mm_loadu_si128(scales + h)), m = _mm256_setzero_ps();
                    if (bits == 4) m = _mm256_cvtph_ps(_mm_loadu_si128(scales + 2 + h));
#pragma GCC unroll 4
                    for (int i = 0; i < step; i++) {
                        __m256 *to = &acc[t + i][h], factor = _mm256_mul_ps(d, _mm256_set1_ps(scale[first + i]));
                        *to = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[i][h]), factor, *to);
                        if (bits == 4) *to = _mm256_fmadd_ps(m, _mm256_set1_ps(total[first + i]), *to);
                    }
                }
            }
        }
        for (int t = 0; t < n; t++)
            for (int h = 0; h < halves; h++) _mm256_storeu_ps(sums + t * BLOCK_ROWS + 8 * (half + h), acc[t][h]);
    }
}

#endif

#endif
