/* Vectors of the widest kind this processor has, written with the compilers' vector types: one source for AVX-512,
   AVX2, NEON and everything else. Used by every computing file. */
#ifndef LLM_CPU_SIMD_VECTOR_H
#define LLM_CPU_SIMD_VECTOR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

/* LLM_PORTABLE and LLM_AVX2 restrict a build to fewer instructions than the machine has, for tests. */
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__) && !defined(LLM_PORTABLE) && \
    !defined(LLM_AVX2)
#define USE_AVX512 1
#define LANES 16
#define ISA "avx512-vnni"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && !defined(LLM_PORTABLE)
#define USE_AVX2 1
#define LANES 8
#define ISA "avx2"
#elif defined(__aarch64__) && defined(__ARM_NEON) && !defined(LLM_PORTABLE)
#define USE_NEON 1
#define LANES 4
#ifdef __ARM_FEATURE_DOTPROD
#define ISA "neon-dotprod"
#else
#define ISA "neon"
#endif
#else
#define LANES 4
#define ISA "portable"
#endif

/* Processors whose dot products multiply bytes: activations of 16 bits are stored as upper and lower bytes. */
#if defined(USE_AVX512) || defined(USE_NEON)
#define SPLIT_CODES 1
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef uint16_t vh __attribute__((vector_size(2 * LANES)));
typedef int16_t vs __attribute__((vector_size(2 * LANES)));
typedef int8_t vb __attribute__((vector_size(LANES)));

INLINE vf load(const float *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void store(float *p, vf v) { memcpy(p, &v, sizeof v); }

INLINE vf broadcast(float x) { return x - (vf){0}; }

INLINE vf select_lanes(vi mask, vf yes, vf no) {
#ifdef USE_AVX2
    return (vf)_mm256_blendv_ps((__m256)no, (__m256)yes, (__m256)mask);
#else
    return (vf)((mask & (vi)yes) | (~mask & (vi)no));
#endif
}

/* If one of them is NaN: `b`. Intrinsics, because compilers take four instructions for a comparison and a selection. */
INLINE vf vmax(vf a, vf b) {
#ifdef USE_AVX512
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(USE_AVX2)
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return select_lanes(a > b, a, b);
#endif
}

INLINE vf vmin(vf a, vf b) {
#ifdef USE_AVX512
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(USE_AVX2)
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return select_lanes(a < b, a, b);
#endif
}

INLINE float sum_lanes(vf v) {
#ifdef USE_AVX512
    return _mm512_reduce_add_ps((__m512)v);
#else
    float total = 0;
    for (int i = 0; i < LANES; i++) total += v[i];
    return total;
#endif
}

INLINE int32_t sum_int32(vi v) {
#ifdef USE_AVX512
    return _mm512_reduce_add_epi32((__m512i)v);
#else
    int32_t total = 0;
    for (int i = 0; i < LANES; i++) total += v[i];
    return total;
#endif
}

INLINE float max_lane(vf v) {
#ifdef USE_AVX512
    return _mm512_reduce_max_ps((__m512)v);
#elif defined(USE_AVX2)
    __m128 best = _mm_max_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    best = _mm_max_ps(best, _mm_movehl_ps(best, best));
    return _mm_cvtss_f32(_mm_max_ss(best, _mm_movehdup_ps(best)));
#else
    float best = v[0];
    for (int i = 1; i < LANES; i++) best = v[i] > best ? v[i] : best;
    return best;
#endif
}

/* The greatest of some magnitudes, by their bits; NaN is greater than any number. */
INLINE float max_magnitude(vi v) {
    float magnitude;
#ifdef USE_AVX512
    int32_t best = _mm512_reduce_max_epi32((__m512i)v);
#elif defined(USE_AVX2)
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    int32_t best = _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
#else
    int32_t best = v[0];
    for (int i = 1; i < LANES; i++) best = v[i] > best ? v[i] : best;
#endif
    memcpy(&magnitude, &best, sizeof magnitude);
    return magnitude;
}

#endif
