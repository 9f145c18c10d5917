/* Which rows of an output head of 8 bits may hold the greatest logit: the others need not be read to the end where that
   is all that is wanted.

   A code of 8 bits is 16 u + l. Where a row's lower nibbles l are taken for their mean, its product with a token is off
   by the sum of d (l - 7.5) x over its columns. The lower nibbles of weights that have been rounded to 8 bits are as good
   as independent and uniform from 0 to 15: such a sum is sub-Gaussian, its variance the sum of 21.25 d^2 x^2 (a uniform
   distribution is strictly so: Arbel et al. 2019, "On strict sub-Gaussianity, optimal proxy variance and symmetry for
   bounded random variables"), and it is beyond SURE = 8 deviations with a probability below exp(-32) = 1.3e-14.

   Most of a token's length lies in a few columns (on the starter 44 % in one group of 32), whose groups are read whole
   from the start: then some ten row blocks of 3072 are left to be read whole. These, the rows with the greatest logits,
   show whether lower nibbles are as they should be: nothing is believed any more once one is off by 6 deviations.

   Among the 40 best tokens, of which one is drawn, is a logit of so many rows that nothing is gained (measured). */
#ifndef LLM_CPU_LOGITS_HEAD_SCREENING_H
#define LLM_CPU_LOGITS_HEAD_SCREENING_H

#include "../matmul/matmul.h"

#define NIBBLE_VARIANCE 21.25f
#define SURE 8.0f
#define SURPRISE (6 / SURE)

/* A group is read whole with such a part of the square of the token's length. */
#define GREAT 0.15f

/* What is known of each row block: the most that one of its logits may be, -INFINITY once it has been read whole, and
   how much its logits may be off. */
typedef struct {
    float *most, *doubt;
} Screen;

static inline int can_screen(const Model *m) {
    return m->head.format == PACKED8 && !m->head.bias && m->logit_scale > 0 && m->logit_softcap == 0;
}

/* What a group's lower nibbles may add for a scale of 1, squared; 0 for groups that are to be read whole. */
static void find_doubts(const Input *in, float *doubts) {
    float all = 0;
    for (int g = 0; g < in->groups; g++) {
        const float *x = in->rows + g * GROUP;
        int count = in->columns - g * GROUP < GROUP ? in->columns - g * GROUP : GROUP;
        float squares = 0;
        for (int i = 0; i < count; i++) squares += x[i] * x[i];
        all += doubts[g] = squares;
    }
    for (int g = 0; g < in->groups; g++) {
        if (doubts[g] >= GREAT * all) {
            doubts[g] = 0;
            continue;
        }
        /* However little there is to be doubted, sums are rounded. */
        if (doubts[g] < 1e-8f * all) doubts[g] = 1e-8f * all;
        doubts[g] *= SURE * SURE * NIBBLE_VARIANCE;
    }
}

/* Bytes of the head that have not been read, `looked_at` row blocks having been read whole after the others. */
static inline int64_t unread_bytes(const Matrix *m, const float *doubts, int64_t looked_at) {
    int64_t doubtful = 0, whole = block_bytes(m) + rest_bytes(m->format, groups_of(m));
    for (int g = 0; g < groups_of(m); g++) doubtful += doubts[g] != 0;
    return row_blocks(m) * doubtful * NIBBLES - looked_at * whole;
}

/* Row blocks `first` to `last` times the only token of `in`, as far as that is known without most lower nibbles. Reading
   goes on at `next`. */
static void estimate(const Matrix *m, const Input *in, const float *doubts, float *out, const Screen *screen, int first,
                     int last, Place next) {
    const Course course = course_to(m, 0, last, next, 0);
    for (int block = first; block < last; block++) {
        int row = block * BLOCK_ROWS, rows = rows_in(m, block);
        float sums[2 * BLOCK_ROWS], most = -INFINITY, doubt = 0;
        packed8_tile(weights_at(m, 0, block), in->groups, in->codes, in->scale, in->total, in->shift, 1, sums, doubts,
                     &course);
        memcpy(out + row, sums, (size_t)rows * sizeof *out);
        for (int r = 0; r < rows; r++) {
            float upmost = sums[r] + sums[BLOCK_ROWS + r];
            if (!(upmost <= most)) most = upmost; /* what is no number stays */
            if (sums[BLOCK_ROWS + r] > doubt) doubt = sums[BLOCK_ROWS + r];
        }
        screen->most[block] = most;
        screen->doubt[block] = doubt;
    }
}

/* Read a row block whole, unless it has been, and go on at row block `then` of them. Returns whether that is a surprise. */
static int look_at(const Matrix *m, const Input *in, float *out, const Screen *screen, int64_t block, int64_t then) {
    int row = (int)block * BLOCK_ROWS, rows = rows_in(m, block), surprise = 0;
    float before[BLOCK_ROWS];
    if (screen->most[block] == -INFINITY) return 0;
    memcpy(before, out + row, (size_t)rows * sizeof *before);
    multiply(m, 0, in, out, m->rows, (int)block, (int)block + 1, place_at(m, 0, then));
    for (int r = 0; r < rows; r++) surprise |= fabsf(out[row + r] - before[r]) > SURPRISE * screen->doubt[block];
    screen->most[block] = -INFINITY;
    return surprise;
}

/* The first row block from `block` to `last` of which a logit may reach the limit; what is no number may. */
static inline int64_t next_to_look_at(const Screen *screen, float limit, int64_t block, int64_t last) {
    while (block < last && screen->most[block] < limit) block++;
    return block;
}

#endif
