/* Vectors of the widest kind this processor has, by the compilers' own vector types: the same code for all. */
#ifndef LLM_CPU_SIMD_H
#define LLM_CPU_SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* LLM_PORTABLE and LLM_AVX2 hold a build back to less than the machine has, for tests. */
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__) && !defined(LLM_PORTABLE) && \
    !defined(LLM_AVX2)
#define USE_AVX512 1
#define LANES 16
#define ISA "avx512-vnni"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && !defined(LLM_PORTABLE)
#define USE_AVX2 1
#define LANES 8
#define ISA "avx2"
#else
#define LANES 4
#define ISA "portable"
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef uint16_t vh __attribute__((vector_size(2 * LANES)));
typedef int8_t vb __attribute__((vector_size(LANES)));

/* Where reading ends, and where it goes on, if that is known. */
typedef struct {
    const char *end, *next;
} Outlook;

/* What a thread will read next, asked for while it does something else: then memory is never idle. `rest` is what it reads
   at the same time in another place, or NULL. */
typedef struct {
    const char *at, *end, *rest;
} Onward;

/* Ask for a few lines, and only into the second cache. More at a time would make others wait. */
INLINE void ask_onward(Onward *o) {
    for (int line = 0; line < 8 && o->at < o->end; line++, o->at += 64) {
        __builtin_prefetch(o->at, 0, 2);
        if (!o->rest) continue;
        __builtin_prefetch(o->rest, 0, 2);
        o->rest += 64, line++;
    }
}

INLINE vf load(const float *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void store(float *p, vf v) { memcpy(p, &v, sizeof v); }

/* By hand: a compiler's own conversion takes three times as many instructions. */
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

INLINE vf all(float x) { return x - (vf){0}; }

INLINE vf pick(vi mask, vf yes, vf no) { return (vf)((mask & (vi)yes) | (~mask & (vi)no)); }

/* Where one of them is NaN: `b`. */
INLINE vf vmax(vf a, vf b) { return pick(a > b, a, b); }
INLINE vf vmin(vf a, vf b) { return pick(a < b, a, b); }

INLINE float sum(vf v) {
#ifdef USE_AVX512
    return _mm512_reduce_add_ps((__m512)v);
#else
    float total = 0;
    for (int i = 0; i < LANES; i++) total += v[i];
    return total;
#endif
}

INLINE int32_t whole_sum(vi v) {
#ifdef USE_AVX512
    return _mm512_reduce_add_epi32((__m512i)v);
#else
    int32_t total = 0;
    for (int i = 0; i < LANES; i++) total += v[i];
    return total;
#endif
}

INLINE float greatest(vf v) {
#ifdef USE_AVX512
    return _mm512_reduce_max_ps((__m512)v);
#else
    float best = v[0];
    for (int i = 1; i < LANES; i++) best = v[i] > best ? v[i] : best;
    return best;
#endif
}

/* Of magnitudes, by their bits; NaN is greater than any number. */
INLINE float greatest_magnitude(vi v) {
    float magnitude;
#ifdef USE_AVX512
    int32_t best = _mm512_reduce_max_epi32((__m512i)v);
#else
    int32_t best = v[0];
    for (int i = 1; i < LANES; i++) best = v[i] > best ? v[i] : best;
#endif
    memcpy(&magnitude, &best, sizeof magnitude);
    return magnitude;
}

/* e^x to a few units in the last place; the argument is cut off where the result would leave the normal numbers. NaN
   stays NaN, which the bits that are added at the end could make a number of. */
INLINE vf vexp(vf x) {
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number, found in the lower bits */
    x = vmin(all(88.0f), vmax(all(-87.0f), x));
    vf t = x * 1.44269504f + shift;
    vi n = (vi)t - (vi)all(shift);
    t -= shift;
    vf r = x - t * 0.693359375f;
    r = r + t * 2.12194440e-4f;
    vf p = all(1.0f / 5040);
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return pick(x == x, (vf)((vi)p + (n << 23)), x);
}

INLINE vf vtanh(vf x) { return 1.0f - 2.0f / (vexp(2.0f * x) + 1.0f); }
INLINE vf vsigmoid(vf x) { return 1.0f / (1.0f + vexp(-x)); }

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
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40); /* stays not a number */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#endif
