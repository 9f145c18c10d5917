/* Head screening: which rows of an 8-bit output head can have the greatest logit. For greedy decoding the other rows
   need not be read completely.

   A code of 8 bits is 16 u + l. If a row's lower nibbles l are replaced by their mean, its product with a token is off
   by the sum of d (l - 7.5) x over its columns. The lower nibbles of weights rounded to 8 bits are practically
   independent and uniform from 0 to 15: such a sum is sub-Gaussian with a variance of the sum of 21.25 d^2 x^2 (a
   uniform distribution is strictly sub-Gaussian: Arbel et al. 2019, "On strict sub-Gaussianity, optimal proxy variance
   and symmetry for bounded random variables"), and it exceeds DEVIATIONS = 8 standard deviations with a probability
   below exp(-32) = 1.3e-14.

   Most of a token's length is in a few columns (on the starter 44 % in one group of 32). Their groups are read
   completely from the start: then about ten row blocks of 3072 remain to be read completely. These, the rows with the
   greatest logits, show whether lower nibbles are as assumed: once one is off by 6 deviations, all rows are read.

   For sampling from the 40 best tokens nothing is gained: too many rows may have one of these logits (measured). */
#ifndef LLM_CPU_LOGITS_HEAD_SCREENING_H
#define LLM_CPU_LOGITS_HEAD_SCREENING_H

#include "../matmul/matmul.h"

#define NIBBLE_VARIANCE 21.25f
#define DEVIATIONS 8.0f
#define MAX_ERROR (6 / DEVIATIONS)

/* A group is read completely if it has at least this part of the squared length of the token. */
#define GREAT 0.15f

/* For each row block the upper bound of its logits, -INFINITY once it has been read completely, and the greatest error
   bound of its estimates. */
typedef struct {
    float *most, *error;
} Screen;

static inline int can_screen(const Model *m) {
    return m->head.format == PACKED8 && !m->head.bias && m->logit_scale > 0 && m->logit_softcap == 0;
}

/* The squared error bound of each group for a scale of 1; 0 for groups that are read completely. */
static void find_error_weights(const Input *in, float *error_weights) {
    float all = 0;
    for (int g = 0; g < in->groups; g++) {
        const float *x = in->rows + g * GROUP;
        int count = in->columns - g * GROUP < GROUP ? in->columns - g * GROUP : GROUP;
        float squares = 0;
        for (int i = 0; i < count; i++) squares += x[i] * x[i];
        all += error_weights[g] = squares;
    }
    for (int g = 0; g < in->groups; g++) {
        if (error_weights[g] >= GREAT * all) {
            error_weights[g] = 0;
            continue;
        }
        /* Rounding errors remain even where the bound is tiny. */
        if (error_weights[g] < 1e-8f * all) error_weights[g] = 1e-8f * all;
        error_weights[g] *= DEVIATIONS * DEVIATIONS * NIBBLE_VARIANCE;
    }
}

/* Bytes of the head that were not read, if `blocks_read` row blocks were read again completely. */
static inline int64_t unread_bytes(const Matrix *m, const float *error_weights, int64_t blocks_read) {
    int64_t doubtful = 0, whole = block_bytes(m) + rest_bytes(m->format, groups_of(m));
    for (int g = 0; g < groups_of(m); g++) doubtful += error_weights[g] != 0;
    return row_blocks(m) * doubtful * NIBBLE_BYTES - blocks_read * whole;
}

/* Estimated logits of row blocks `first` to `last` for the only token of `in`, without most lower nibbles. `next`: the
   weights that are read afterwards. */
static void estimate_logits(const Matrix *m, const Input *in, const float *error_weights, float *out,
                            const Screen *screen, int first, int last, WeightAddress next) {
    const ReadPlan plan = plan_reads(m, 0, last, next, 0);
    for (int block = first; block < last; block++) {
        int row = block * BLOCK_ROWS, rows = rows_in(m, block);
        float sums[2 * BLOCK_ROWS], most = -INFINITY, error = 0;
        packed8_tile(weights_at(m, 0, block), in->groups, in->codes, in->scale, in->total, in->shift, 1, sums,
                     error_weights, &plan);
        memcpy(out + row, sums, (size_t)rows * sizeof *out);
        for (int r = 0; r < rows; r++) {
            float upmost = sums[r] + sums[BLOCK_ROWS + r];
            if (!(upmost <= most)) most = upmost; /* NaN is kept */
            if (sums[BLOCK_ROWS + r] > error) error = sums[BLOCK_ROWS + r];
        }
        screen->most[block] = most;
        screen->error[block] = error;
    }
}

/* Read a row block completely, unless it has been, and prefetch row block `then`. Returns whether an estimate was off
   by more than MAX_ERROR allows. */
static int read_whole_block(const Matrix *m, const Input *in, float *out, const Screen *screen, int64_t block,
                            int64_t then) {
    int row = (int)block * BLOCK_ROWS, rows = rows_in(m, block), surprise = 0;
    float before[BLOCK_ROWS];
    if (screen->most[block] == -INFINITY) return 0;
    memcpy(before, out + row, (size_t)rows * sizeof *before);
    multiply(m, 0, in, out, m->rows, (int)block, (int)block + 1, weight_address(m, 0, then));
    for (int r = 0; r < rows; r++) surprise |= fabsf(out[row + r] - before[r]) > MAX_ERROR * screen->error[block];
    screen->most[block] = -INFINITY;
    return surprise;
}

/* The first row block from `block` to `last` with a logit that may reach the limit, or NaN. */
static inline int64_t next_candidate(const Screen *screen, float limit, int64_t block, int64_t last) {
    while (block < last && screen->most[block] < limit) block++;
    return block;
}

#endif
