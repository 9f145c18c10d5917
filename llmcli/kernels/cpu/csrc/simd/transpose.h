/* Transposes of squares of 32-bit values, for attention over a block of keys. */
#ifndef LLM_CPU_SIMD_TRANSPOSE_H
#define LLM_CPU_SIMD_TRANSPOSE_H

#include "vector.h"

#ifdef USE_AVX512
/* Transpose sixteen rows of sixteen 32-bit words, `stride` bytes apart. */
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

#if defined(USE_AVX512) || defined(USE_AVX2)
#ifdef USE_AVX512
#define VECTOR(operation) _mm512_##operation
typedef __m512i Words;
#else
#define VECTOR(operation) _mm256_##operation
typedef __m256i Words;
#endif

/* Transpose the 4 x 4 words in each block of four lanes of four vectors: lane i of block b of the j-th vector is then
   word j of block b of the i-th. */
INLINE void transpose_fours(Words v[4]) {
    Words a = VECTOR(unpacklo_epi32)(v[0], v[1]), b = VECTOR(unpackhi_epi32)(v[0], v[1]);
    Words c = VECTOR(unpacklo_epi32)(v[2], v[3]), d = VECTOR(unpackhi_epi32)(v[2], v[3]);
    v[0] = VECTOR(unpacklo_epi64)(a, c), v[1] = VECTOR(unpackhi_epi64)(a, c);
    v[2] = VECTOR(unpacklo_epi64)(b, d), v[3] = VECTOR(unpackhi_epi64)(b, d);
}

/* The sum of a vector's blocks of four lanes. */
INLINE __m128 sum_of_fours(vf v) {
#ifdef USE_AVX512
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256((__m512)v),
                                _mm256_castpd_ps(_mm512_extractf64x4_pd((__m512d)v, 1)));
#else
    __m256 half = (__m256)v;
#endif
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}
#endif

#endif
