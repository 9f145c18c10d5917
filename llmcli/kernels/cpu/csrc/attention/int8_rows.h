/* Rows of a cache in 8 bits: the bytes of a key or value, then a scale in float16 for each 32 of them, as
   model/cache/int8_rows.py describes. int8_dots.h multiplies them as they are; for other implementations of attention
   blocks of rows are unpacked. Called by decode.h, bf16.h, int8_dots.h and heads.h. */
#ifndef LLM_CPU_ATTENTION_INT8_ROWS_H
#define LLM_CPU_ATTENTION_INT8_ROWS_H

#include "../abi.h"
#include "../simd/half.h"

enum { SCALED_TOGETHER = 32 };

static inline int64_t int8_row(int size) { return size + (size + SCALED_TOGETHER - 1) / SCALED_TOGETHER * 2; }

/* The bytes of a key or value of `size` numbers in a cache of this format. */
static inline int64_t cache_row(int format, int size) {
    return format == INT8_ROWS ? int8_row(size) : (int64_t)size * (format == BFLOAT16 ? 2 : 4);
}

INLINE float scale_at(const char *row, int size, int group) {
    uint16_t half;
    memcpy(&half, row + size + 2 * group, sizeof half);
#if defined(USE_AVX512) || defined(USE_AVX2)
    return _cvtsh_ss(half);
#else
    return from_half(half);
#endif
}

/* Round `size` numbers to a row. A group with NaN or infinity gets the scale NaN. */
static void pack_int8_row(const float *x, int size, char *row) {
    for (int d = 0, group = 0; d < size; d += SCALED_TOGETHER, group++) {
        int n = size - d < SCALED_TOGETHER ? size - d : SCALED_TOGETHER;
        float most = 0, zero = 0;
        for (int i = 0; i < n; i++) {
            most = fabsf(x[d + i]) > most ? fabsf(x[d + i]) : most;
            zero += x[d + i] * 0; /* NaN if the number is not finite */
        }
        uint16_t half = to_half(most / 127 + zero);
        float scale = from_half(half);
        memcpy(row + size + 2 * group, &half, sizeof half);
        for (int i = 0; i < n; i++) {
            float code = scale > 0 ? rintf(x[d + i] / scale) : 0;
            row[d + i] = (char)(int8_t)(code > 127 ? 127 : code < -127 ? -127 : code);
        }
    }
}

INLINE vf load_int8(const char *p) {
#ifdef USE_AVX512
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
#elif defined(USE_AVX2)
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
#else
    vb b;
    memcpy(&b, p, sizeof b);
    return __builtin_convertvector(b, vf);
#endif
}

/* Unpack one row to float32. */
INLINE void unpack_int8_row(const char *row, int size, float *to) {
    int d = 0;
    for (; d + SCALED_TOGETHER <= size; d += SCALED_TOGETHER) {
        vf scale = broadcast(scale_at(row, size, d / SCALED_TOGETHER));
        for (int i = 0; i < SCALED_TOGETHER; i += LANES) store(to + d + i, load_int8(row + d + i) * scale);
    }
    if (d == size) return;
    float scale = scale_at(row, size, d / SCALED_TOGETHER);
    for (; d < size; d++) to[d] = scale * (float)(int8_t)row[d];
}

#if defined(USE_AVX512) && defined(__AVX512BF16__)
/* Unpack one row to bfloat16; the size is a multiple of 32. */
INLINE void unpack_int8_row_bf16(const char *row, int size, uint16_t *to) {
    for (int d = 0; d < size; d += SCALED_TOGETHER) {
        vf scale = broadcast(scale_at(row, size, d / SCALED_TOGETHER));
        vf low = load_int8(row + d) * scale, high = load_int8(row + d + 16) * scale;
        _mm512_storeu_si512(to + d, (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low));
    }
}
#endif

#endif
