/* Block formats of GGUF files put into the packed blocks of model/packed.py as the weights are read: the same, bit for
   bit, as checkpoint/groups.py and `pack` make in torch. The layouts are those of ggml's `ggml-common.h`. */
#ifndef LLM_CPU_PACK_H
#define LLM_CPU_PACK_H

#include "cpu_matmul.h"

enum { Q4_0, Q4_1, Q4_K, Q5_0, Q8_0, IQ4_NL };

/* 32 columns of a row. */
typedef struct {
    uint32_t fours[8]; /* four codes each, the first lowest */
    uint16_t scale, minimum;
} Codes;

/* Rounded to the nearest, of two to the even one. */
static uint16_t to_half(float value) {
    uint32_t bits, sign;
    memcpy(&bits, &value, sizeof bits);
    sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (bits >= 0x47800000) return (uint16_t)(sign | 0x7c00); /* 65536 and more; what rounds to it becomes so below */
    if (bits < 0x38800000) {
        /* Subnormal: the last bit of a number between 0.5 and 1 is worth 2^-24, as that of such a half is. */
        float shifted;
        memcpy(&shifted, &bits, sizeof shifted);
        shifted += 0.5f;
        memcpy(&bits, &shifted, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3f000000));
    }
    bits += 0xfff + (bits >> 13 & 1);
    return (uint16_t)(sign | (bits - 0x38000000) >> 13);
}

INLINE uint16_t half_at(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }

INLINE uint32_t four_at(const uint8_t *p) {
    uint32_t four;
    memcpy(&four, p, sizeof four);
    return four;
}

/* 16 bytes: the lower nibbles are the first 16 columns. */
INLINE void nibbles(const uint8_t *p, Codes *to) {
    for (int i = 0; i < 4; i++) {
        uint32_t four = four_at(p + 4 * i);
        to->fours[i] = four & 0x0f0f0f0f;
        to->fours[i + 4] = four >> 4 & 0x0f0f0f0f;
    }
}

/* Four bits, one for each byte of the result. */
INLINE uint32_t spread(uint32_t bits) { return (bits & 15) * 0x00204081 & 0x01010101; }

/* Group `g` of a row that begins at `row`. */
INLINE void read_codes(const int format, const uint8_t *row, int g, Codes *to) {
    static const uint8_t levels[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
    const uint8_t *p;
    to->minimum = 0;
    if (format == Q4_0) {
        p = row + (int64_t)g * 18;
        nibbles(p + 2, to);
        to->scale = half_at(p);
        to->minimum = to_half(from_half(to->scale) * -8);
    } else if (format == Q4_1) {
        p = row + (int64_t)g * 20;
        nibbles(p + 4, to);
        to->scale = half_at(p);
        to->minimum = half_at(p + 2);
    } else if (format == Q4_K) {
        /* 8 groups of 32: two share 32 bytes, the first their lower nibbles. */
        int part = g % 8;
        p = row + (int64_t)(g / 8) * 144;
        for (int i = 0; i < 8; i++) to->fours[i] = four_at(p + 16 + part / 2 * 32 + 4 * i) >> part % 2 * 4 & 0x0f0f0f0f;
        const uint8_t *s = p + 4;
        int scale = part < 4 ? s[part] & 63 : (s[part + 4] & 15) | s[part - 4] >> 6 << 4;
        int minimum = part < 4 ? s[part + 4] & 63 : s[part + 4] >> 4 | s[part] >> 6 << 4;
        to->scale = to_half(from_half(half_at(p)) * (float)scale);
        to->minimum = to_half(-(from_half(half_at(p + 2)) * (float)minimum));
    } else if (format == Q5_0) {
        p = row + (int64_t)g * 22;
        nibbles(p + 6, to);
        uint32_t fifth = four_at(p + 2);
        /* Codes are stored with 16 added, and are to have 128. */
        for (int i = 0; i < 8; i++) to->fours[i] = (to->fours[i] | spread(fifth >> 4 * i) << 4) + 0x70707070;
        to->scale = half_at(p);
    } else if (format == Q8_0) {
        p = row + (int64_t)g * 34;
        for (int i = 0; i < 8; i++) to->fours[i] = four_at(p + 2 + 4 * i) ^ 0x80808080;
        to->scale = half_at(p);
    } else {
        p = row + (int64_t)g * 18;
        nibbles(p + 2, to);
        for (int i = 0; i < 8; i++) {
            uint32_t four = to->fours[i];
            to->fours[i] = (uint32_t)levels[four & 15] | (uint32_t)levels[four >> 8 & 15] << 8 |
                           (uint32_t)levels[four >> 16 & 15] << 16 | (uint32_t)levels[four >> 24] << 24;
        }
        to->scale = half_at(p);
    }
}

/* Half of a row's codes, those of 4 bits in `fours`. */
INLINE void write_nibbles(const uint32_t *fours, uint8_t *to, int row) {
    for (int i = 0; i < 4; i++) {
        uint32_t both = fours[2 * i] | fours[2 * i + 1] << 4;
        memcpy(to + 64 * i + 4 * row, &both, sizeof both);
    }
}

/* Group `g` of a row of the 16 that `near` and `rest` are of. */
INLINE void write_codes(const int kept, const Codes *codes, uint8_t *near, uint8_t *rest, int g, int groups, int row) {
    uint8_t *numbers = near, *to = near + number_bytes(kept, groups) + NIBBLES * (int64_t)g;
    if (kept == PACKED4) {
        uint16_t word = (uint16_t)((codes->scale & 0xfff) | (codes->minimum >> 8 & 15) << 12);
        write_nibbles(codes->fours, to, row);
        numbers += NUMBER_BYTES * (int64_t)g;
        memcpy(numbers + 2 * row, &word, 2);
        numbers[2 * BLOCK_ROWS + row] = (uint8_t)codes->minimum;
        rest[REST_BYTES * (int64_t)g + row] = (uint8_t)(codes->scale >> 12 | codes->minimum >> 12 << 4);
    } else {
        uint32_t upper[8], lower[8];
        for (int i = 0; i < 8; i++) {
            upper[i] = codes->fours[i] >> 4 & 0x0f0f0f0f;
            lower[i] = codes->fours[i] & 0x0f0f0f0f;
        }
        write_nibbles(upper, to, row);
        write_nibbles(lower, rest + NIBBLES * (int64_t)g, row);
        memcpy(numbers + SCALES * (int64_t)g + 2 * row, &codes->scale, 2);
    }
}

INLINE void pack_rows(const int format, const uint8_t *stored, int64_t row_bytes, const int32_t *order, int rows,
                      int groups, int64_t first, uint8_t *near, uint8_t *rest) {
    const int kept = format == Q4_0 || format == Q4_1 || format == Q4_K ? PACKED4 : PACKED8;
    Codes codes;
    for (int done = 0, count; done < rows; done += count) {
        int row = (int)((first + done) % BLOCK_ROWS);
        int64_t block = (first + done) / BLOCK_ROWS;
        uint8_t *to = near + block * near_bytes(kept, groups), *to_rest = rest + block * rest_bytes(kept, groups);
        count = BLOCK_ROWS - row < rows - done ? BLOCK_ROWS - row : rows - done;
        for (int g = 0; g < groups; g++) {
            for (int i = 0; i < count; i++) {
                int from = order ? order[done + i] : done + i;
                read_codes(format, stored + from * row_bytes, g, &codes);
                write_codes(kept, &codes, to, to_rest, g, groups, row + i);
            }
        }
    }
}

#endif
