/* One row of a matrix as float32: the embedding of a token. Called by layers/embedding.h. */
#ifndef LLM_CPU_MATMUL_READ_ROW_H
#define LLM_CPU_MATMUL_READ_ROW_H

#include "layout.h"
#include "../simd/half.h"

/* One row of a matrix as float32. */
static void read_row(const Matrix *m, int row, float *to) {
    if (m->format == FLOAT32) {
        memcpy(to, (const float *)m->data + (int64_t)row * m->columns, (size_t)m->columns * sizeof *to);
    } else if (m->format == BFLOAT16) {
        const uint16_t *from = (const uint16_t *)m->data + (int64_t)row * m->columns;
        for (int c = 0; c < m->columns; c++) to[c] = from_bf16(from[c]);
    } else {
        int place = row % BLOCK_ROWS, groups = groups_of(m);
        const uint8_t *scales = (const uint8_t *)block_at(m, 0, row / BLOCK_ROWS);
        const uint8_t *codes = scales + scale_bytes(m->format, groups);
        for (int c = 0; c < m->columns; c++) {
            int g = c / GROUP, four = c % GROUP / 4, at = place * 4 + c % 4;
            uint16_t scale, minimum;
            if (m->format == PACKED8) {
                memcpy(&scale, scales + INT8_SCALE_BYTES * g + 2 * place, 2);
                to[c] = from_half(scale) * (float)(codes[INT8_CODE_BYTES * g + 64 * four + at] - 128);
            } else {
                int code = codes[INT4_CODE_BYTES * g + 64 * (four / 2) + at] >> 4 * (four % 2) & 15;
                memcpy(&scale, scales + INT4_SCALE_BYTES * g + 2 * place, 2);
                memcpy(&minimum, scales + INT4_SCALE_BYTES * g + 32 + 2 * place, 2);
                to[c] = from_half(scale) * (float)code + from_half(minimum);
            }
        }
    }
}

#endif
