/* The memory layout of matrices: sizes and addresses of row blocks. 16 rows make a row block, 32 columns a group;
   model/quantized/layout.py describes and writes the packed formats. */
#ifndef LLM_CPU_MATMUL_LAYOUT_H
#define LLM_CPU_MATMUL_LAYOUT_H

#include "scale_compression.h"
#include "../abi.h"

enum { TILE = 16, GROUP = 32, INPUT_CODES = 64, BLOCK_ROWS = 16 };

/* Bytes of 32 columns of a row block: codes of 4 and of 8 bits, and scales of 8-bit weights. */
enum { INT4_CODE_BYTES = 256, INT8_CODE_BYTES = 512, INT8_SCALE_BYTES = 32 };

INLINE int64_t scale_bytes(int format, int groups) {
    return round_up((int64_t)groups * (format == PACKED4 ? INT4_SCALE_BYTES : INT8_SCALE_BYTES), 64);
}

INLINE int64_t near_bytes(int format, int groups) {
    return scale_bytes(format, groups) + (int64_t)groups * (format == PACKED4 ? INT4_CODE_BYTES : INT8_CODE_BYTES);
}

INLINE int64_t rest_bytes(int format, int groups) {
    return format == PACKED4 ? (int64_t)groups * REST_BYTES : 0;
}

/* The packed weights of a row block; `bases`: of its scales and minima, with 4 bits. */
typedef struct {
    const uint8_t *scales, *codes, *rest;
    uint32_t bases;
} Weights;

static int is_packed(const Matrix *m) { return m->format >= PACKED4; }

static inline int row_blocks(const Matrix *m) { return (m->rows + BLOCK_ROWS - 1) / BLOCK_ROWS; }

static inline int groups_of(const Matrix *m) { return (m->columns + GROUP - 1) / GROUP; }

/* The bytes of a row block, without the rest. */
static inline int64_t block_bytes(const Matrix *m) {
    if (m->format >= PACKED4) return near_bytes(m->format, groups_of(m));
    return (int64_t)m->columns * BLOCK_ROWS * (m->format == BFLOAT16 ? 2 : 4);
}

/* The rows of a row block that are not padding. */
static inline int rows_in(const Matrix *m, int64_t block) {
    int64_t rows = m->rows - block * BLOCK_ROWS;
    return rows < BLOCK_ROWS ? (int)rows : BLOCK_ROWS;
}

/* The address of a row block of matrix `index` of a stack. */
static inline const char *block_at(const Matrix *m, int index, int64_t block) {
    return (const char *)m->data + index * m->stride + block * block_bytes(m);
}

static inline const uint8_t *rest_at(const Matrix *m, int index, int64_t block) {
    return (const uint8_t *)m->rest + (index * (int64_t)row_blocks(m) + block) * rest_bytes(m->format, groups_of(m));
}

/* A row block of packed weights. The first read of a 4-bit block computes its bases. */
static inline Weights weights_at(const Matrix *m, int index, int64_t block) {
    const uint8_t *near = (const uint8_t *)block_at(m, index, block);
    Weights w = {near, near + scale_bytes(m->format, groups_of(m)), rest_at(m, index, block), NO_BASES};
    if (m->format != PACKED4) return w;
    uint32_t *bases = m->bases + index * (int64_t)row_blocks(m) + block;
    if (*bases == BASES_UNKNOWN) *bases = find_bases(w.scales, w.rest, groups_of(m));
    w.bases = *bases;
    return w;
}

#endif
