/* Products of packed matrices with 1 to 35 tokens, printed as numbers: compiled for several processors, whose output is
   compared. */
#include <stdio.h>
#include <stdlib.h>

#include "matmul/matmul.h"

static uint32_t state = 1;

static uint32_t next(void) { return state = state * 1664525u + 1013904223u; }

int main(void) {
    enum { ROWS = 41, COLUMNS = 200, MOST_TOKENS = 35 };
    static _Alignas(64) float rows[MOST_TOKENS * COLUMNS], out[MOST_TOKENS * ROWS];
    for (int format = PACKED4; format <= PACKED8; format++) {
        Matrix m = {.rows = ROWS, .columns = COLUMNS, .format = format};
        int groups = groups_of(&m);
        int64_t bytes = row_blocks(&m) * block_bytes(&m);
        uint8_t *data = aligned_alloc(64, (size_t)round_up(bytes, 64) + 8192);
        for (int64_t i = 0; i < bytes; i++) data[i] = (uint8_t)(next() >> 24);
        for (int block = 0; block < row_blocks(&m); block++) {
            uint8_t *scales = data + block * block_bytes(&m);
            for (int i = 0; i < groups * (format == PACKED4 ? 32 : 16); i++) {
                uint16_t half = to_half(((int32_t)(next() >> 8) - (1 << 23)) * 1e-9f);
                memcpy(scales + 2 * i, &half, 2);
            }
        }
        m.data = data;
        for (int tokens = 1; tokens <= MOST_TOKENS; tokens += tokens < 17 ? 1 : 9) {
            size_t padded = (size_t)(tokens + TILE) * (size_t)groups;
            Input in = {.rows = rows, .ld = COLUMNS};
            in.codes = calloc(padded * INPUT_CODES, sizeof *in.codes);
            in.scale = calloc(padded, sizeof *in.scale);
            in.total = calloc(padded, sizeof *in.total);
            in.shift = calloc(padded, sizeof *in.shift);
            for (int i = 0; i < tokens * COLUMNS; i++) rows[i] = ((int32_t)(next() >> 8) - (1 << 23)) * 1e-7f;
            set_shape(&in, tokens, COLUMNS);
            for (int t = 0; t < tokens; t++) quantize(&in, t, 0, groups);
            multiply(&m, 0, &in, out, ROWS, 0, row_blocks(&m), NULL);
            for (int i = 0; i < tokens * ROWS; i++) printf("%.9g\n", (double)out[i]);
            free(in.codes), free(in.scale), free(in.total), free(in.shift);
        }
        free(data);
    }
    return 0;
}
