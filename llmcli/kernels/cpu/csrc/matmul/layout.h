/* The memory layout of matrices: sizes and addresses of row blocks. 16 rows make a row block, 32 columns a group;
   model/quantized/layout.py describes and writes the packed formats. */
#ifndef LLM_CPU_MATMUL_LAYOUT_H
#define LLM_CPU_MATMUL_LAYOUT_H

#include "../abi.h"
#include "../simd/vector.h"

enum { TILE = 16, GROUP = 32, BLOCK_ROWS = 16 };

/* Activations of 16 bits, INPUT_CODES for a group: with AVX-512 and NEON the bytes separately, otherwise whole. */
#ifdef SPLIT_CODES
typedef int8_t Code;
enum { INPUT_CODES = 2 * GROUP };
#else
typedef int16_t Code;
enum { INPUT_CODES = GROUP };
#endif

/* Bytes of 32 columns of a row block: codes of 4 and of 8 bits, scales and minima of 4-bit weights, and scales of 8-bit
   weights. */
enum { INT4_CODE_BYTES = 256, INT8_CODE_BYTES = 512, INT4_SCALE_BYTES = 64, INT8_SCALE_BYTES = 32 };

INLINE int64_t scale_bytes(int format, int groups) {
    return round_up((int64_t)groups * (format == PACKED4 ? INT4_SCALE_BYTES : INT8_SCALE_BYTES), 64);
}

INLINE int64_t code_bytes(int format, int groups) {
    return (int64_t)groups * (format == PACKED4 ? INT4_CODE_BYTES : INT8_CODE_BYTES);
}

INLINE int64_t packed_bytes(int format, int groups) { return scale_bytes(format, groups) + code_bytes(format, groups); }

/* The packed weights of a row block. */
typedef struct {
    const uint8_t *scales, *codes;
} Weights;

static int is_packed(const Matrix *m) { return m->format >= PACKED4; }

static inline int row_blocks(const Matrix *m) { return (m->rows + BLOCK_ROWS - 1) / BLOCK_ROWS; }

static inline int groups_of(const Matrix *m) { return (m->columns + GROUP - 1) / GROUP; }

static inline int64_t block_bytes(const Matrix *m) {
    if (m->format >= PACKED4) return packed_bytes(m->format, groups_of(m));
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

static inline Weights weights_at(const Matrix *m, int index, int64_t block) {
    const uint8_t *scales = (const uint8_t *)block_at(m, index, block);
    return (Weights){scales, scales + scale_bytes(m->format, groups_of(m))};
}

#endif
