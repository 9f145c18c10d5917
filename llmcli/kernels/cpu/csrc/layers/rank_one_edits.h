/* Rank-one edits of a down projection: what model/rank_one_update.py computes. Called by feed_forward.h. */
#ifndef LLM_CPU_LAYERS_RANK_ONE_EDITS_H
#define LLM_CPU_LAYERS_RANK_ONE_EDITS_H

#include "../matmul/input.h"
#include "../runtime/context.h"
#include "../simd/vector.h"

/* The factor of each edit for each token, the dot product of its read vector with the token's input: (tokens,
   edits). */
static void read_edits(const Worker *w, const Layer *layer, const Input *in) {
    Context *c = w->context;
    int inner = in->columns;
    int64_t first, last = share(w, (int64_t)c->step->tokens * layer->edits, &first);
    for (int64_t i = first; i < last; i++) {
        const float *x = in->rows + i / layer->edits * in->ld;
        const float *read = layer->edit_reads + i % layer->edits * inner;
        vf acc = {0};
        int j = 0;
        for (; j + LANES <= inner; j += LANES) acc += load(x + j) * load(read + j);
        float total = sum_lanes(acc);
        for (; j < inner; j++) total += x[j] * read[j];
        c->edited[i] = total;
    }
}

/* Add the edits' write vectors, times their factors, to this worker's rows of the down projection. */
static void write_edits(const Worker *w, const Layer *layer, float *out) {
    const Context *c = w->context;
    int hidden = layer->down.rows;
    int64_t first, last = share(w, row_blocks(&layer->down), &first);
    int from = (int)first * BLOCK_ROWS, to = (int)last * BLOCK_ROWS < hidden ? (int)last * BLOCK_ROWS : hidden;
    for (int t = 0; t < c->step->tokens; t++)
        for (int e = 0; e < layer->edits; e++) {
            const float *write = layer->edit_writes + (int64_t)e * hidden;
            float factor = c->edited[(int64_t)t * layer->edits + e], *x = out + t * c->ld_hidden;
            for (int i = from; i < to; i++) x[i] += factor * write[i];
        }
}

#endif
