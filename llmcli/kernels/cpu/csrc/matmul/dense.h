/* Rows of bfloat16 or float32 weights times a tile of tokens: for matmul.h. */
#ifndef LLM_CPU_MATMUL_DENSE_H
#define LLM_CPU_MATMUL_DENSE_H

#include "layout.h"
#include "../simd/half.h"

/* r rows of dense weights times n tokens. */
INLINE void dense_block(const char *w, int64_t row_bytes, const int bf16, const float *x, int64_t ld, int columns,
                        const int r, const int n, float *sums) {
    vf acc[4][4];
    for (int i = 0; i < r; i++)
        for (int t = 0; t < n; t++) acc[i][t] = (vf){0};
    int c = 0;
    for (; c + LANES <= columns; c += LANES) {
        vf weights[4];
#pragma GCC unroll 4
        for (int i = 0; i < r; i++)
            weights[i] = bf16 ? load_bf16((const uint16_t *)(w + i * row_bytes) + c)
                              : load((const float *)(w + i * row_bytes) + c);
#pragma GCC unroll 4
        for (int t = 0; t < n; t++) {
            vf values = load(x + t * ld + c);
#pragma GCC unroll 4
            for (int i = 0; i < r; i++) acc[i][t] += weights[i] * values;
        }
    }
    for (int i = 0; i < r; i++)
        for (int t = 0; t < n; t++) {
            float total = sum_lanes(acc[i][t]);
            for (int j = c; j < columns; j++)
                total += x[t * ld + j] * (bf16 ? from_bf16(((const uint16_t *)(w + i * row_bytes))[j])
                                               : ((const float *)(w + i * row_bytes))[j]);
            sums[t * BLOCK_ROWS + i] = total;
        }
}

static void dense_rows(const char *w, int64_t row_bytes, int bf16, const float *x, int64_t ld, int columns, int rows,
                       int tokens, float *sums) {
    for (int i = 0; i < rows; i += 4) {
        for (int t = 0; t < tokens; t += 4) {
            const char *from = w + i * row_bytes;
            const float *of = x + t * ld;
            float *to = sums + t * BLOCK_ROWS + i;
            int r = rows - i < 4 ? rows - i : 4, n = tokens - t < 4 ? tokens - t : 4;
#define FOR_SIZE(a, b)                                                                   \
    if (r == a && n == b) {                                                              \
        if (bf16)                                                                        \
            dense_block(from, row_bytes, 1, of, ld, columns, a, b, to);                  \
        else                                                                             \
            dense_block(from, row_bytes, 0, of, ld, columns, a, b, to);                  \
        continue;                                                                        \
    }
            FOR_SIZE(4, 4)
            FOR_SIZE(4, 3)
            FOR_SIZE(4, 2)
            FOR_SIZE(4, 1)
#undef FOR_SIZE
            for (int a = 0; a < r; a++)
                for (int b = 0; b < n; b++)
                    dense_block(from + a * row_bytes, row_bytes, bf16, of + b * ld, ld, columns, 1, 1,
                                to + b * BLOCK_ROWS + a);
        }
    }
}

#endif
