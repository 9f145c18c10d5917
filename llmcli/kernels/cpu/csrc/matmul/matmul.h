/* Matrix products: every weight is read, and decoded, once for up to 16 tokens. Called by runtime/products.h and
   the feed-forward layers. */
#ifndef LLM_CPU_MATMUL_MATMUL_H
#define LLM_CPU_MATMUL_MATMUL_H

#include "dense.h"
#include "input.h"
#include "int4.h"
#include "int8.h"

static void packed_tile(Weights w, int format, const Input *in, int tile, int width, float *sums,
                        const ReadPlan *plan) {
    int64_t at = (int64_t)tile * TILE * in->groups;
    const Code *codes = in->codes + at * INPUT_CODES;
    const float *scale = in->scale + at, *total = in->total + at;
    const int32_t *shift = in->shift + at;
    /* The width is a compile-time constant in each case, so that sums stay in registers. */
#define FOR_WIDTH(n)                                                                    \
    case n:                                                                             \
        if (format == PACKED4)                                                          \
            packed4_tile(w, in->groups, codes, scale, total, n, sums, plan);            \
        else                                                                            \
            packed8_tile(w, in->groups, codes, scale, shift, n, sums, plan);            \
        break;
    switch (width) {
        FOR_WIDTH(1)
        FOR_WIDTH(2)
        FOR_WIDTH(4)
        FOR_WIDTH(8)
        FOR_WIDTH(16)
    }
#undef FOR_WIDTH
}

/* Row blocks `first` to `last` of matrix `index` of a stack times all tokens of `in`, into `out` (tokens, ld). `next`:
   the weights that are read afterwards, if known. */
static void multiply(const Matrix *m, int index, const Input *in, float *out, int64_t ld, int first, int last,
                     const char *next) {
    const ReadPlan plan = plan_reads(m, index, last, next);
    const float *bias = m->bias ? m->bias + (int64_t)index * m->rows : NULL;
    for (int block = first; block < last; block++) {
        int row = block * BLOCK_ROWS, rows = rows_in(m, block);
        for (int tile = 0; tile * TILE < in->tokens; tile++) {
            _Alignas(64) float sums[TILE * BLOCK_ROWS];
            int tokens = in->tokens - tile * TILE < TILE ? in->tokens - tile * TILE : TILE;
            if (m->format >= PACKED4) {
                packed_tile(weights_at(m, index, block), m->format, in, tile, tile_width(in->tokens, tile), sums,
                            &plan);
            } else {
                dense_rows(block_at(m, index, block), block_bytes(m) / BLOCK_ROWS, m->format == BFLOAT16,
                           in->rows + tile * TILE * in->ld, in->ld, m->columns, rows, tokens, sums);
            }
            for (int t = 0; t < tokens; t++) {
                float *to = out + (tile * TILE + t) * ld + row;
                const float *from = sums + t * BLOCK_ROWS;
                if (bias)
                    for (int r = 0; r < rows; r++) to[r] = from[r] + bias[row + r];
                else
                    memcpy(to, from, (size_t)rows * sizeof *to);
            }
        }
    }
}

#endif
