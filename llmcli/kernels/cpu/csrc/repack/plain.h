/* Readers of plain numbers, F32, F16 and BF16: 32 columns of 16 rows as float32. Used by pack.h. */
#ifndef LLM_CPU_REPACK_PLAIN_H
#define LLM_CPU_REPACK_PLAIN_H

#include "round.h"

/* Two numbers of 16 bits of each row. */
INLINE void read_two(const int is_half, const uint32_t *words, float *first, float *second) {
    if (is_half) {
        uint16_t low[BLOCK_ROWS], high[BLOCK_ROWS];
        for (int r = 0; r < BLOCK_ROWS; r++) {
            low[r] = (uint16_t)words[r];
            high[r] = (uint16_t)(words[r] >> 16);
        }
        from_halves(low, first);
        from_halves(high, second);
        return;
    }
    for (int r = 0; r < BLOCK_ROWS; r++) {
        const uint32_t low = words[r] << 16, high = words[r] & 0xffff0000;
        memcpy(first + r, &low, sizeof low);
        memcpy(second + r, &high, sizeof high);
    }
}

/* Columns from 32 * g on of each row, `size` bytes each; of those after the last column, copies of the first, which do
   not widen the range. */
INLINE void read_plain(Rows rows, int g, int columns, const int size, const int is_half, Values to) {
    const int left = columns - GROUP * g;
    uint8_t copies[BLOCK_ROWS][4 * GROUP];
    const uint8_t *starts[BLOCK_ROWS];
    for (int r = 0; r < BLOCK_ROWS; r++) {
        starts[r] = rows[r] + (int64_t)g * GROUP * size;
        if (left >= GROUP) continue;
        for (int i = 0; i < GROUP; i++)
            memcpy(copies[r] + i * size, starts[r] + (i < left ? i : 0) * size, (size_t)size);
        starts[r] = copies[r];
    }
    for (int i = 0; i < GROUP; i += 4 / size) {
        uint32_t words[BLOCK_ROWS];
        words_at(starts, i * size, words);
        if (size == 2) read_two(is_half, words, to[i], to[i + 1]);
        else memcpy(to[i], words, sizeof to[i]);
    }
}

#endif
