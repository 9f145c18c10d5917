/* float16 and bfloat16 to float32 and back: weights, scales and the KV cache are stored in 16 bits. */
#ifndef LLM_CPU_SIMD_HALF_H
#define LLM_CPU_SIMD_HALF_H

#include "vector.h"

/* Intrinsics, because compilers convert these vectors with three times as many instructions. */
INLINE vf load_bf16(const uint16_t *p) {
#ifdef USE_AVX512
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
#elif defined(USE_AVX2)
    return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16);
#else
    vh h;
    memcpy(&h, p, sizeof h);
    return (vf)(__builtin_convertvector(h, vu) << 16);
#endif
}

static inline float from_half(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff, bits;
    float value;
    if (rest >= 0x7c00) {
        bits = sign | 0x7f800000 | (rest & 0x3ff) << 13;
    } else if (rest >= 0x400) {
        bits = sign | ((rest << 13) + 0x38000000);
    } else {
        value = (float)rest * 5.9604644775390625e-8f; /* subnormal: times 2^-24 */
        return sign ? -value : value;
    }
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float from_bf16(uint16_t h) {
    uint32_t bits = (uint32_t)h << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint16_t to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40); /* NaN stays NaN */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* To float16, rounded to nearest even. */
static inline uint16_t to_half(float value) {
    uint32_t bits, sign;
    memcpy(&bits, &value, sizeof bits);
    sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (bits >= 0x47800000) return (uint16_t)(sign | 0x7c00); /* 65536 and more */
    if (bits < 0x38800000) {
        /* Subnormal: the last bit of a float between 0.5 and 1 is worth 2^-24, like that of a subnormal float16. */
        float shifted;
        memcpy(&shifted, &bits, sizeof shifted);
        shifted += 0.5f;
        memcpy(&bits, &shifted, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3f000000));
    }
    bits += 0xfff + (bits >> 13 & 1);
    return (uint16_t)(sign | (bits - 0x38000000) >> 13);
}

/* 16 numbers at a time. */
INLINE void from_halves(const uint16_t *from, float *to) {
#ifdef USE_AVX512
    _mm512_storeu_ps(to, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from)));
#elif defined(USE_AVX2)
    for (int i = 0; i < 16; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
#else
    for (int i = 0; i < 16; i++) to[i] = from_half(from[i]);
#endif
}

INLINE void to_halves(const float *from, uint16_t *to) {
#ifdef USE_AVX512
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph(_mm512_loadu_ps(from), _MM_FROUND_TO_NEAREST_INT));
#elif defined(USE_AVX2)
    for (int i = 0; i < 16; i += 8)
        _mm_storeu_si128((__m128i *)(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
#else
    for (int i = 0; i < 16; i++) to[i] = to_half(from[i]);
#endif
}

#endif
