/* A feed-forward network with up, down and, in most models, gate projection: what model/feed_forward.py computes.
   Called for dense layers and for the shared expert of a mixture. */
#ifndef LLM_CPU_LAYERS_FEED_FORWARD_H
#define LLM_CPU_LAYERS_FEED_FORWARD_H

#include "activation.h"
#include "norm.h"
#include "rank_one_edits.h"
#include "../runtime/products.h"

/* The address of the first weights a worker reads after attention; none before experts are chosen. */
static const char *feed_forward_address(const Worker *w, const Layer *layer) {
    int64_t first;
    if (layer->experts.count) return NULL;
    share(w, (layer->inner + GROUP - 1) / GROUP, &first);
    return block_at(&layer->up, 0, first * (GROUP / BLOCK_ROWS));
}

/* The norm of all neurons of each token, shared among the workers by tokens. */
static void normalize_inner(const Worker *w, const Layer *layer, Input *in) {
    int64_t first, last = share(w, in->tokens, &first);
    for (int64_t t = first; t < last; t++) {
        float *row = in->rows + t * in->ld;
        normalize(&layer->feed_forward_inner, row, row, in->columns, 0);
        if (is_packed(&layer->down)) quantize(in, (int)t, 0, in->groups);
    }
}

/* From `in` to `out`; `next`: the weights that are read afterwards. */
static void feed_forward(Worker *w, const Layer *layer, int inner, const Input *in, float *out, const char *next) {
    Context *c = w->context;
    int tokens = c->step->tokens, gated = layer->gate.data != NULL;
    Input inner_in = c->inner_in;
    set_shape(&inner_in, tokens, inner);
    /* Each worker computes its groups of columns from projection to quantization, without waiting in between. */
    int64_t first, last = share(w, inner_in.groups, &first), blocks = row_blocks(&layer->up);
    int64_t from = first * (GROUP / BLOCK_ROWS), to = last * (GROUP / BLOCK_ROWS);
    if (to > blocks) to = blocks;
    Activation function = {c->model.activation, layer->xielu_above, layer->xielu_below};
    int normed = layer->feed_forward_inner.kind != NO_NORM;
    Product down = {&layer->down, &inner_in, out, c->ld_hidden};
    const char *then = first_address(w, &down, 1);
    multiply(&layer->up, 0, in, c->up, c->ld_inner, (int)from, (int)to,
             gated ? block_at(&layer->gate, 0, from) : then);
    if (gated) multiply(&layer->gate, 0, in, c->gate, c->ld_inner, (int)from, (int)to, then);
    prefetch_next_weights(w, then);
    int column = (int)first * GROUP, end = (int)last * GROUP < inner ? (int)last * GROUP : inner;
    for (int token = 0; token < tokens && column < end; token++) {
        const float *up = c->up + token * c->ld_inner + column, *gate = c->gate + token * c->ld_inner + column;
        float *to_row = inner_in.rows + token * inner_in.ld + column;
        prefetch_some(&w->cursor);
        activate(function, gated ? gate : up, gated ? up : NULL, to_row, end - column);
        prefetch_some(&w->cursor);
        if (is_packed(&layer->down) && !normed) quantize(&inner_in, token, (int)first, (int)last);
        prefetch_some(&w->cursor);
    }
    sync_threads(w);
    if (normed) {
        normalize_inner(w, layer, &inner_in);
        sync_threads(w);
    }
    if (layer->edits) {
        read_edits(w, layer, &inner_in);
        sync_threads(w);
    }
    multiply_products(w, &down, 1, next);
    if (layer->edits) write_edits(w, layer, out);
    sync_threads(w);
}

#endif
