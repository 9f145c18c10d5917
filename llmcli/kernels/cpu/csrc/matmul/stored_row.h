/* Rows of a table of embeddings in the blocks of a GGUF file, as float32: what checkpoint/tensors/ggml/blocks.py
   decodes. The layouts are those of ggml's `ggml-common.h`. Called by layers/per_layer_embeddings.h. */
#ifndef LLM_CPU_MATMUL_STORED_ROW_H
#define LLM_CPU_MATMUL_STORED_ROW_H

#include "read_row.h"

/* Values and bytes of a block, in the order of the encodings. */
static const struct {
    int values, bytes;
} STORED_BLOCKS[] = {{1, 4},    {1, 2},    {1, 2},    {32, 18},   {32, 20},   {32, 22},   {32, 24},  {32, 34},
                     {256, 84}, {256, 110}, {256, 144}, {256, 176}, {256, 210}, {32, 18}, {256, 136}};

static const int8_t FOUR_BIT_LEVELS[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* Field i of `bits` bits: of every `width` bytes the lowest fields come first, then the next higher ones. */
INLINE int field(const uint8_t *packed, const int width, const int bits, int i) {
    const int in_group = width * (8 / bits), rest = i % in_group;
    return packed[i / in_group * width + rest % width] >> rest / width * bits & ((1 << bits) - 1);
}

INLINE float half_at(const uint8_t *at) {
    uint16_t half;
    memcpy(&half, at, sizeof half);
    return from_half(half);
}

/* The 6-bit scale or minimum of group i of Q4_K and Q5_K, of 12 bytes. */
INLINE int six_bits(const uint8_t *s, int i, const int minimum) {
    if (i < 4) return s[i + 4 * minimum] & 63;
    return (minimum ? s[i + 4] >> 4 : s[i + 4] & 15) | s[i - 4 + 4 * minimum] >> 6 << 4;
}

/* Blocks of 32 values with one scale. */
INLINE void decode_32(const int encoding, const uint8_t *b, float *to) {
    float scale = half_at(b), minimum = encoding == STORED_Q4_1 || encoding == STORED_Q5_1 ? half_at(b + 2) : 0;
    for (int i = 0; i < 32; i++) {
        int q;
        switch (encoding) {
        case STORED_Q4_0: q = field(b + 2, 16, 4, i) - 8; break;
        case STORED_Q4_1: q = field(b + 4, 16, 4, i); break;
        case STORED_Q5_0: q = (field(b + 6, 16, 4, i) | field(b + 2, 1, 1, i) << 4) - 16; break;
        case STORED_Q5_1: q = field(b + 8, 16, 4, i) | field(b + 4, 1, 1, i) << 4; break;
        case STORED_Q8_0: q = (int8_t)b[2 + i]; break;
        default: q = FOUR_BIT_LEVELS[field(b + 2, 16, 4, i)];
        }
        to[i] = scale * (float)q + minimum;
    }
}

/* Blocks of 256 values in groups with scales of their own. */
INLINE void decode_256(const int encoding, const uint8_t *b, float *to) {
    const int groups = encoding == STORED_Q4_K || encoding == STORED_Q5_K || encoding == STORED_IQ4_XS ? 8 : 16;
    const int size = 256 / groups;
    for (int g = 0; g < groups; g++) {
        float scale, minimum = 0;
        switch (encoding) {
        case STORED_Q2_K:
            scale = half_at(b + 80) * (float)(b[g] & 15), minimum = half_at(b + 82) * (float)(b[g] >> 4);
            break;
        case STORED_Q3_K:
            scale = half_at(b + 108) * (float)((field(b + 96, 8, 4, g) | field(b + 104, 4, 2, g) << 4) - 32);
            break;
        case STORED_Q6_K: scale = half_at(b + 208) * (float)(int8_t)b[192 + g]; break;
        case STORED_IQ4_XS:
            scale = half_at(b) * (float)((field(b + 4, 1, 4, g) | field(b + 2, 1, 2, g) << 4) - 32);
            break;
        default:
            scale = half_at(b) * (float)six_bits(b + 4, g, 0), minimum = half_at(b + 2) * (float)six_bits(b + 4, g, 1);
        }
        for (int i = g * size; i < (g + 1) * size; i++) {
            int q;
            switch (encoding) {
            case STORED_Q2_K: q = field(b + 16, 32, 2, i); break;
            case STORED_Q3_K: q = (field(b + 32, 32, 2, i) | field(b, 32, 1, i) << 2) - 4; break;
            case STORED_Q4_K: q = field(b + 16, 32, 4, i); break;
            case STORED_Q5_K: q = field(b + 48, 32, 4, i) | field(b + 16, 32, 1, i) << 4; break;
            case STORED_Q6_K: q = (field(b, 64, 4, i) | field(b + 128, 32, 2, i) << 4) - 32; break;
            default: q = FOUR_BIT_LEVELS[field(b + 8, 16, 4, i)];
            }
            to[i] = scale * (float)q - minimum;
        }
    }
}

static void decode_block(int encoding, const uint8_t *b, float *to) {
    uint16_t half;
#define FOR_ENCODING(kind, decode) \
    case kind: decode(kind, b, to); return;
    switch (encoding) {
    case STORED_F32: memcpy(to, b, sizeof *to); return;
    case STORED_F16: to[0] = half_at(b); return;
    case STORED_BF16:
        memcpy(&half, b, sizeof half);
        to[0] = from_bf16(half);
        return;
        FOR_ENCODING(STORED_Q4_0, decode_32)
        FOR_ENCODING(STORED_Q4_1, decode_32)
        FOR_ENCODING(STORED_Q5_0, decode_32)
        FOR_ENCODING(STORED_Q5_1, decode_32)
        FOR_ENCODING(STORED_Q8_0, decode_32)
        FOR_ENCODING(STORED_IQ4_NL, decode_32)
        FOR_ENCODING(STORED_Q2_K, decode_256)
        FOR_ENCODING(STORED_Q3_K, decode_256)
        FOR_ENCODING(STORED_Q4_K, decode_256)
        FOR_ENCODING(STORED_Q5_K, decode_256)
        FOR_ENCODING(STORED_Q6_K, decode_256)
        FOR_ENCODING(STORED_IQ4_XS, decode_256)
    }
#undef FOR_ENCODING
}

/* One row of a table as float32. */
static void read_table_row(const Table *table, int row, float *to) {
    if (!table->blocks) {
        read_row(&table->matrix, row, to);
        return;
    }
    const uint8_t *from = (const uint8_t *)table->blocks + (int64_t)row * table->row_bytes;
    int values = STORED_BLOCKS[table->encoding].values, bytes = STORED_BLOCKS[table->encoding].bytes;
    for (int64_t block = 0; block < table->row_bytes / bytes; block++)
        decode_block(table->encoding, from + block * bytes, to + block * values);
}

#endif
