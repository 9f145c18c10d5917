/* GGUF block formats to the packed blocks of model/quantized/matrix.py, when weights are loaded: bit for bit what
   checkpoint/tensors/repack.py makes with torch. The layouts are those of ggml's `ggml-common.h`. Called by
   decoder.c. */
#ifndef LLM_CPU_GGUF_REPACK_H
#define LLM_CPU_GGUF_REPACK_H

#include "matmul/layout.h"
#include "simd/half.h"

enum { Q4_0, Q4_1, Q4_K, Q5_0, Q8_0, IQ4_NL };

/* 32 columns of some rows of a row block. */
typedef struct {
    uint32_t fours[8][BLOCK_ROWS]; /* four codes each, the first lowest */
    uint16_t scale[BLOCK_ROWS], minimum[BLOCK_ROWS];
} Codes;

/* The word at byte `at` of each of `count` rows. All functions below do one thing to all rows at a time, so that
   compilers vectorize them. */
INLINE void words_at(const uint8_t *const *rows, int64_t at, const int count, uint32_t *to) {
    for (int r = 0; r < count; r++) memcpy(to + r, rows[r] + at, sizeof *to);
}

INLINE void halves_at(const uint8_t *const *rows, int64_t at, const int count, uint16_t *to) {
    for (int r = 0; r < count; r++) memcpy(to + r, rows[r] + at, sizeof *to);
}

/* 16 bytes: the lower nibbles are the first 16 columns. */
INLINE void nibbles(const uint8_t *const *rows, int64_t at, const int count, Codes *to) {
    for (int i = 0; i < 4; i++) {
        uint32_t words[BLOCK_ROWS];
        words_at(rows, at + 4 * i, count, words);
        for (int r = 0; r < count; r++) {
            to->fours[i][r] = words[r] & 0x0f0f0f0f;
            to->fours[i + 4][r] = words[r] >> 4 & 0x0f0f0f0f;
        }
    }
}

/* Spread four bits to the lowest bits of four bytes. */
INLINE uint32_t spread_bits(uint32_t bits) { return (bits & 15) * 0x00204081 & 0x01010101; }

/* Of the 8 groups of a Q4_K block two share 32 bytes; the first has the lower nibbles. */
INLINE void read_q4_k(const uint8_t *const *rows, int g, const int count, Codes *to) {
    const int part = g % 8;
    const int64_t at = (int64_t)(g / 8) * 144;
    for (int i = 0; i < 8; i++) {
        words_at(rows, at + 16 + part / 2 * 32 + 4 * i, count, to->fours[i]);
        for (int r = 0; r < count; r++) to->fours[i][r] = to->fours[i][r] >> part % 2 * 4 & 0x0f0f0f0f;
    }
    halves_at(rows, at, count, to->scale);
    halves_at(rows, at + 2, count, to->minimum);
    for (int r = 0; r < count; r++) {
        const uint8_t *s = rows[r] + at + 4;
        int scale = part < 4 ? s[part] & 63 : (s[part + 4] & 15) | s[part - 4] >> 6 << 4;
        int minimum = part < 4 ? s[part + 4] & 63 : s[part + 4] >> 4 | s[part] >> 6 << 4;
        to->scale[r] = to_half(from_half(to->scale[r]) * (float)scale);
        to->minimum[r] = to_half(-(from_half(to->minimum[r]) * (float)minimum));
    }
}

/* Group `g` of some rows. */
INLINE void read_codes(const int format, const uint8_t *const *rows, int g, const int count, Codes *to) {
    static const uint8_t levels[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
    if (format == Q4_K) {
        read_q4_k(rows, g, count, to);
        return;
    }
    const int64_t at = (int64_t)g * (format == Q4_1 ? 20 : format == Q5_0 ? 22 : format == Q8_0 ? 34 : 18);
    halves_at(rows, at, count, to->scale);
    if (format == Q4_0) {
        nibbles(rows, at + 2, count, to);
        for (int r = 0; r < count; r++) to->minimum[r] = to_half(from_half(to->scale[r]) * -8);
    } else if (format == Q4_1) {
        nibbles(rows, at + 4, count, to);
        halves_at(rows, at + 2, count, to->minimum);
    } else if (format == Q5_0) {
        uint32_t fifth[BLOCK_ROWS];
        nibbles(rows, at + 6, count, to);
        words_at(rows, at + 2, count, fifth);
        /* Codes are stored with an offset of 16 and packed with one of 128. */
        for (int i = 0; i < 8; i++)
            for (int r = 0; r < count; r++)
                to->fours[i][r] = (to->fours[i][r] | spread_bits(fifth[r] >> 4 * i) << 4) + 0x70707070;
    } else if (format == Q8_0) {
        for (int i = 0; i < 8; i++) {
            words_at(rows, at + 2 + 4 * i, count, to->fours[i]);
            for (int r = 0; r < count; r++) to->fours[i][r] ^= 0x80808080;
        }
    } else {
        nibbles(rows, at + 2, count, to);
        for (int i = 0; i < 8; i++)
            for (int r = 0; r < count; r++) {
                uint32_t four = to->fours[i][r];
                to->fours[i][r] = (uint32_t)levels[four & 15] | (uint32_t)levels[four >> 8 & 15] << 8 |
                                  (uint32_t)levels[four >> 16 & 15] << 16 | (uint32_t)levels[four >> 24] << 24;
            }
    }
}

/* Codes of 4 bits of `count` rows from `row`. */
INLINE void write_nibbles(const Codes *codes, uint8_t *to, int row, const int count) {
    for (int i = 0; i < 4; i++) {
        const uint32_t *even = codes->fours[2 * i], *odd = codes->fours[2 * i + 1];
        uint32_t both[BLOCK_ROWS];
        for (int r = 0; r < count; r++) both[r] = even[r] | odd[r] << 4;
        memcpy(to + 64 * i + 4 * row, both, sizeof *both * (size_t)count);
    }
}

/* Group `g` of `count` rows from `row`, into a row block. */
INLINE void write_codes(const int kept, const Codes *codes, uint8_t *block, int g, int groups, int row,
                        const int count) {
    uint8_t *scales = block + (kept == PACKED4 ? INT4_SCALE_BYTES : INT8_SCALE_BYTES) * (int64_t)g;
    uint8_t *to = block + scale_bytes(kept, groups) + code_bytes(kept, g);
    memcpy(scales + 2 * row, codes->scale, sizeof *codes->scale * (size_t)count);
    if (kept == PACKED4) {
        memcpy(scales + 2 * (BLOCK_ROWS + row), codes->minimum, sizeof *codes->minimum * (size_t)count);
        write_nibbles(codes, to, row, count);
    } else {
        for (int i = 0; i < 8; i++) memcpy(to + 64 * i + 4 * row, codes->fours[i], 4 * (size_t)count);
    }
}

INLINE void pack_rows(const int format, const uint8_t *stored, int64_t row_bytes, const int32_t *order, int rows,
                      int groups, int64_t first, uint8_t *blocks) {
    const int kept = format == Q4_0 || format == Q4_1 || format == Q4_K ? PACKED4 : PACKED8;
    Codes codes;
    for (int done = 0, count; done < rows; done += count) {
        const uint8_t *from[BLOCK_ROWS];
        int row = (int)((first + done) % BLOCK_ROWS);
        uint8_t *to = blocks + (first + done) / BLOCK_ROWS * packed_bytes(kept, groups);
        count = BLOCK_ROWS - row < rows - done ? BLOCK_ROWS - row : rows - done;
        for (int r = 0; r < count; r++) from[r] = stored + (order ? order[done + r] : done + r) * row_bytes;
        for (int g = 0; g < groups && count == BLOCK_ROWS; g++) {
            read_codes(format, from, g, BLOCK_ROWS, &codes);
            write_codes(kept, &codes, to, g, groups, 0, BLOCK_ROWS);
        }
        for (int g = 0; g < groups && count < BLOCK_ROWS; g++) {
            read_codes(format, from, g, count, &codes);
            write_codes(kept, &codes, to, g, groups, row, count);
        }
    }
}

#endif
