/* Stored rows to packed blocks, when weights are loaded: bit for bit what checkpoint/tensors/repack.py and
   model/quantized/matrix.py make with torch. Called by decoder.c. */
#ifndef LLM_CPU_REPACK_PACK_H
#define LLM_CPU_REPACK_PACK_H

#include "grids.h"
#include "plain.h"
#include "round.h"

enum {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q4_K,
    TQ1_0,
    TQ2_0,
    IQ1_S,
    Q5_0,
    Q8_0,
    IQ2_XXS,
    IQ3_XXS,
    IQ3_S,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
    Q5_1,
    Q2_K,
    Q3_K,
    Q5_K,
    Q6_K,
    IQ1_M,
    IQ2_XS,
    IQ2_S
};

/* Whether packed codes are the stored numbers, with scales (and minima) rounded to float16. */
INLINE int keeps_numbers(const Packing *p) {
    if (p->kept == PACKED4) return p->format >= Q4_0 && p->format <= IQ1_S;
    return p->format >= Q5_0 && p->format <= MXFP4;
}

/* Group `g` of some rows in a block format. */
INLINE void read_numbers(const Packing *p, Rows rows, int g, Numbers *to) {
    switch (p->format) {
        case Q4_0: read_q4_0(rows, g, to); break;
        case Q4_1: read_q4_1(rows, g, to); break;
        case Q4_K: read_q4_k(rows, g, to); break;
        case TQ1_0: read_tq1_0(rows, g, to); break;
        case TQ2_0: read_tq2_0(rows, g, to); break;
        case IQ1_S: read_iq1_s(rows, g, p->grid, to); break;
        case Q5_0: read_q5_0(rows, g, to); break;
        case Q8_0: read_q8_0(rows, g, to); break;
        case IQ2_XXS: read_iq2_xxs(rows, g, p->grid, to); break;
        case IQ3_XXS: read_iq3_xxs(rows, g, p->grid, to); break;
        case IQ3_S: read_iq3_s(rows, g, p->grid, to); break;
        case IQ4_NL: read_iq4_nl(rows, g, to); break;
        case IQ4_XS: read_iq4_xs(rows, g, to); break;
        case MXFP4: read_mxfp4(rows, g, to); break;
        case Q5_1: read_q5_1(rows, g, to); break;
        case Q2_K: read_q2_k(rows, g, to); break;
        case Q3_K: read_q3_k(rows, g, to); break;
        case Q5_K: read_q5_k(rows, g, to); break;
        case Q6_K: read_q6_k(rows, g, to); break;
        case IQ1_M: read_iq1_m(rows, g, p->grid, to); break;
        case IQ2_XS: read_iq2_xs(rows, g, p->grid, to); break;
        default: read_iq2_s(rows, g, p->grid, to); break;
    }
}

/* Numbers as codes: those of 8 bits with an offset of 128. */
static void keep_numbers(const Packing *p, Numbers *numbers, Codes *to) {
    const uint32_t offset = p->kept == PACKED8 ? 0x80808080 : 0;
    for (int i = 0; i < 8; i++)
        for (int r = 0; r < BLOCK_ROWS; r++) to->fours[i][r] = numbers->fours[i][r] ^ offset;
    /* Larger scales than float16 has, which no weights need, become its greatest number. */
    if (p->format == MXFP4) round_to_half(numbers->scale[0], to->scale);
    else to_halves(numbers->scale[0], to->scale);
    to_halves(numbers->minimum[0], to->minimum);
}

static void values_of(const Numbers *numbers, Values to) {
    for (int i = 0; i < 8; i++)
        for (int k = 0; k < 4; k++)
            for (int r = 0; r < BLOCK_ROWS; r++) {
                const float number = (float)(int8_t)(numbers->fours[i][r] >> 8 * k);
                to[4 * i + k][r] = numbers->scale[i / 4][r] * number + numbers->minimum[i / 4][r];
            }
}

static void read_values(const Packing *p, Rows rows, int g, Values to) {
    if (p->format == F32) {
        read_plain(rows, g, p->columns, 4, 0, to);
    } else if (p->format == F16) {
        read_plain(rows, g, p->columns, 2, 1, to);
    } else if (p->format == BF16) {
        read_plain(rows, g, p->columns, 2, 0, to);
    } else {
        Numbers numbers;
        read_numbers(p, rows, g, &numbers);
        values_of(&numbers, to);
    }
}

/* Codes of columns after the last one are 0. */
static void clear_padding(int columns, Codes *codes) {
    for (int i = 0; i < 8; i++) {
        const int left = columns - 4 * i;
        const uint32_t mask = left >= 4 ? ~0u : left <= 0 ? 0 : (1u << 8 * left) - 1;
        for (int r = 0; r < BLOCK_ROWS; r++) codes->fours[i][r] &= mask;
    }
}

static void pack_group(const Packing *p, Rows rows, int g, Codes *to) {
    if (keeps_numbers(p)) {
        Numbers numbers;
        read_numbers(p, rows, g, &numbers);
        keep_numbers(p, &numbers, to);
        return;
    }
    Values values;
    read_values(p, rows, g, values);
    if (p->kept == PACKED4) round_to_4_bits(values, to);
    else round_to_8_bits(values, to);
    if (p->columns - GROUP * g < GROUP) clear_padding(p->columns - GROUP * g, to);
}

/* Group `g` of `count` rows from `row`, into a row block. */
INLINE void write_codes(const int kept, const Codes *codes, uint8_t *block, int g, int groups, int row, int count) {
    uint8_t *scales = block + (kept == PACKED4 ? INT4_SCALE_BYTES : INT8_SCALE_BYTES) * (int64_t)g;
    uint8_t *to = block + scale_bytes(kept, groups) + code_bytes(kept, g);
    const size_t size = 4 * (size_t)count;
    memcpy(scales + 2 * row, codes->scale, size / 2);
    if (kept == PACKED8) {
        for (int i = 0; i < 8; i++) memcpy(to + 64 * i + 4 * row, codes->fours[i], size);
        return;
    }
    memcpy(scales + 2 * (BLOCK_ROWS + row), codes->minimum, size / 2);
    for (int i = 0; i < 4; i++) {
        uint32_t both[BLOCK_ROWS];
        for (int r = 0; r < BLOCK_ROWS; r++) both[r] = codes->fours[2 * i][r] | codes->fours[2 * i + 1][r] << 4;
        memcpy(to + 64 * i + 4 * row, both, size);
    }
}

/* Rows of `row_bytes` bytes, in their order or the given one, into row blocks from row `first` on. */
static void pack_rows(const Packing *p, const uint8_t *stored, int64_t row_bytes, const int32_t *order, int rows,
                      int64_t first, uint8_t *blocks) {
    const int groups = (p->columns + GROUP - 1) / GROUP;
    Codes codes;
    for (int done = 0, count; done < rows; done += count) {
        const uint8_t *from[BLOCK_ROWS];
        const int row = (int)((first + done) % BLOCK_ROWS);
        uint8_t *to = blocks + (first + done) / BLOCK_ROWS * packed_bytes(p->kept, groups);
        count = BLOCK_ROWS - row < rows - done ? BLOCK_ROWS - row : rows - done;
        /* Where there are fewer rows, the first of them is read again. */
        for (int r = 0; r < BLOCK_ROWS; r++) {
            const int at = done + (r < count ? r : 0);
            from[r] = stored + (order ? order[at] : at) * row_bytes;
        }
        for (int g = 0; g < groups; g++) {
            pack_group(p, from, g, &codes);
            if (count == BLOCK_ROWS) write_codes(p->kept, &codes, to, g, groups, 0, BLOCK_ROWS);
            else write_codes(p->kept, &codes, to, g, groups, row, count);
        }
    }
}

#endif
