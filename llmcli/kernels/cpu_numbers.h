/* Scales and minima of 4-bit blocks, of which the upper 4 bits lie apart from the rest (model/packed_format.py).

   Taken for whole numbers, halves of one sign grow with their value, by 1024 from a power of two to the next. Where all
   scales of a row block are less than 4096 beyond the least, the base, each follows from its lower 12 bits: it is
   base + ((lower - base) mod 4096). So do the minima. On the starter that is so in 97 of 100 row blocks, and a token
   takes a twentieth less to read of them. */
#ifndef LLM_CPU_NUMBERS_H
#define LLM_CPU_NUMBERS_H

#include "cpu_simd.h"

/* Of a group: words of 16 rows, then bytes of 16 rows; and the bytes that lie apart. */
enum { NUMBER_BYTES = 48, REST_BYTES = 16 };

/* The bases of a row block: of scales, and above 16 bits of minima. The least values stand for something else. */
enum { BASES_UNKNOWN, NO_BASES };

INLINE void join_numbers(const uint8_t *numbers, const uint8_t *rest, int row, uint16_t *scale, uint16_t *minimum) {
    uint16_t word;
    memcpy(&word, numbers + 2 * row, 2);
    *scale = (uint16_t)((word & 0xfff) | (rest[row] & 15) << 12);
    *minimum = (uint16_t)(numbers[32 + row] | word >> 12 << 8 | rest[row] >> 4 << 12);
}

static uint32_t find_bases(const uint8_t *numbers, const uint8_t *rest, int groups) {
    enum { ROWS = 16 };
    uint16_t least[2] = {65535, 65535}, most[2] = {0, 0};
    for (int g = 0; g < groups; g++)
        for (int row = 0; row < ROWS; row++) {
            uint16_t both[2];
            join_numbers(numbers + NUMBER_BYTES * g, rest + REST_BYTES * g, row, both, both + 1);
            for (int i = 0; i < 2; i++) {
                least[i] = both[i] < least[i] ? both[i] : least[i];
                most[i] = both[i] > most[i] ? both[i] : most[i];
            }
        }
    uint32_t bases = least[0] | (uint32_t)least[1] << 16;
    return most[0] - least[0] < 4096 && most[1] - least[1] < 4096 && bases > NO_BASES ? bases : NO_BASES;
}

#if defined(USE_AVX512)

typedef struct {
    __m512 scale, minimum;
} Numbers;

INLINE __m256i all_words(int word) { return _mm256_set1_epi16((short)word); }

/* Of a group's 16 rows; `rest` is read where there are no bases. */
INLINE Numbers numbers_of(const uint8_t *numbers, const uint8_t *rest, uint32_t bases) {
    const __m256i twelve = all_words(0xfff);
    __m256i words = _mm256_loadu_si256((const __m256i *)numbers);
    __m256i lower = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(numbers + 32)));
    enum { FIRST_OR_BOTH_OTHERS = 0xf8 };
    __m256i minimum = _mm256_srli_epi16(words, 4), scale;
    minimum = _mm256_ternarylogic_epi32(lower, minimum, all_words(0xf00), FIRST_OR_BOTH_OTHERS);
    if (bases == NO_BASES) {
        __m256i upper = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)rest));
        scale = _mm256_or_si256(_mm256_and_si256(words, twelve), _mm256_slli_epi16(upper, 12));
        minimum = _mm256_or_si256(minimum, _mm256_slli_epi16(_mm256_and_si256(upper, all_words(0xf0)), 8));
    } else {
        const __m256i first = all_words((int)bases), second = all_words((int)(bases >> 16));
        scale = _mm256_add_epi16(first, _mm256_and_si256(_mm256_sub_epi16(words, first), twelve));
        minimum = _mm256_add_epi16(second, _mm256_and_si256(_mm256_sub_epi16(minimum, second), twelve));
    }
    return (Numbers){_mm512_cvtph_ps(scale), _mm512_cvtph_ps(minimum)};
}

#elif defined(USE_AVX2)

typedef struct {
    __m256 scale, minimum;
} Numbers;

INLINE __m128i all_words(int word) { return _mm_set1_epi16((short)word); }

/* Of 8 of a group's rows; `rest` is read where there are no bases. */
INLINE Numbers numbers_of(const uint8_t *numbers, const uint8_t *rest, uint32_t bases, int half) {
    const __m128i twelve = all_words(0xfff);
    __m128i words = _mm_loadu_si128((const __m128i *)(numbers + 16 * half));
    __m128i lower = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)(numbers + 32 + 8 * half)));
    __m128i minimum = _mm_or_si128(lower, _mm_and_si128(_mm_srli_epi16(words, 4), all_words(0xf00))), scale;
    if (bases == NO_BASES) {
        __m128i upper = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)(rest + 8 * half)));
        scale = _mm_or_si128(_mm_and_si128(words, twelve), _mm_slli_epi16(upper, 12));
        minimum = _mm_or_si128(minimum, _mm_slli_epi16(_mm_and_si128(upper, all_words(0xf0)), 8));
    } else {
        const __m128i first = all_words((int)bases), second = all_words((int)(bases >> 16));
        scale = _mm_add_epi16(first, _mm_and_si128(_mm_sub_epi16(words, first), twelve));
        minimum = _mm_add_epi16(second, _mm_and_si128(_mm_sub_epi16(minimum, second), twelve));
    }
    return (Numbers){_mm256_cvtph_ps(scale), _mm256_cvtph_ps(minimum)};
}

#endif

#endif
