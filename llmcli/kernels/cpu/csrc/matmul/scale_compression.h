/* Compression of the scales and minima of 4-bit blocks: their upper 4 bits are stored apart (model/quantized/layout.py)
   and seldom read.

   As integers, float16 values of one sign grow with their value, by 1024 from a power of two to the next. If all scales
   of a row block are less than 4096 above the least, the base, each follows from its lower 12 bits: it is base +
   ((lower - base) mod 4096). The same holds for minima. On the starter it holds for 97 of 100 row blocks, and a token
   reads a twentieth less. */
#ifndef LLM_CPU_MATMUL_SCALE_COMPRESSION_H
#define LLM_CPU_MATMUL_SCALE_COMPRESSION_H

#include "../simd/vector.h"

/* Bytes of a group: words of 16 rows, then bytes of 16 rows; and the bytes that are stored apart. */
enum { INT4_SCALE_BYTES = 48, REST_BYTES = 16 };

/* The bases of a row block: of scales in the lower 16 bits, of minima in the upper ones. The least values have another
   meaning. */
enum { BASES_UNKNOWN, NO_BASES };

INLINE void join_scale(const uint8_t *scales, const uint8_t *rest, int row, uint16_t *scale, uint16_t *minimum) {
    uint16_t word;
    memcpy(&word, scales + 2 * row, 2);
    *scale = (uint16_t)((word & 0xfff) | (rest[row] & 15) << 12);
    *minimum = (uint16_t)(scales[32 + row] | word >> 12 << 8 | rest[row] >> 4 << 12);
}

static uint32_t find_bases(const uint8_t *scales, const uint8_t *rest, int groups) {
    enum { ROWS = 16 };
    uint16_t least[2] = {65535, 65535}, most[2] = {0, 0};
    for (int g = 0; g < groups; g++)
        for (int row = 0; row < ROWS; row++) {
            uint16_t both[2];
            join_scale(scales + INT4_SCALE_BYTES * g, rest + REST_BYTES * g, row, both, both + 1);
            for (int i = 0; i < 2; i++) {
                least[i] = both[i] < least[i] ? both[i] : least[i];
                most[i] = both[i] > most[i] ? both[i] : most[i];
            }
        }
    uint32_t bases = least[0] | (uint32_t)least[1] << 16;
    return most[0] - least[0] < 4096 && most[1] - least[1] < 4096 && bases > NO_BASES ? bases : NO_BASES;
}

#if defined(USE_AVX512) || defined(USE_AVX2)

typedef struct {
    vf scale, minimum;
} Scales;

INLINE vf from_halves(vh halves) {
#ifdef USE_AVX512
    return (vf)_mm512_cvtph_ps((__m256i)halves);
#else
    return (vf)_mm256_cvtph_ps((__m128i)halves);
#endif
}

/* Intrinsics, because compilers convert these vectors with four instructions. */
INLINE vh bytes_of(const uint8_t *from) {
#ifdef USE_AVX512
    return (vh)_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)from));
#else
    return (vh)_mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)from));
#endif
}

/* Scales and minima of LANES rows of a group from `row`; `rest` is only read without bases. */
INLINE Scales load_scales(const uint8_t *scales, const uint8_t *rest, uint32_t bases, const int row) {
    vh scale, minimum;
    memcpy(&scale, scales + 2 * row, sizeof scale);
    minimum = bytes_of(scales + 32 + row) | (scale >> 4 & 0xf00);
    if (bases == NO_BASES) {
        vh upper = bytes_of(rest + row);
        scale = (scale & 0xfff) | upper << 12;
        minimum |= (upper & 0xf0) << 8;
    } else {
        const uint16_t first = (uint16_t)bases, second = (uint16_t)(bases >> 16);
        scale = first + ((scale - first) & 0xfff);
        minimum = second + ((minimum - second) & 0xfff);
    }
    return (Scales){from_halves(scale), from_halves(minimum)};
}

#endif

#endif
