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

/* Cut off the gates (n) that are not `sparsity` standard deviations above their mean, and subtract that from the
   others. */
static void cut_off_gates(float *gate, int n, float sparsity) {
    float mean = 0, squares = 0;
    for (int i = 0; i < n; i++) mean += gate[i];
    mean /= (float)n;
    for (int i = 0; i < n; i++) squares += (gate[i] - mean) * (gate[i] - mean);
    float cutoff = mean + sparsity * sqrtf(squares / (float)n);
    for (int i = 0; i < n; i++) {
        float above = gate[i] - cutoff;
        gate[i] = above < 0 ? 0 : above; /* NaN stays NaN */
    }
}

/* The neurons of columns `from` to `to` of a token, from its projections. */
static void activate_neurons(const Worker *w, const Layer *layer, Input *in, int token, int from, int to) {
    const Context *c = w->context;
    const float *up = c->up + token * c->ld_inner + from, *gate = c->gate + token * c->ld_inner + from;
    Activation function = {c->model.activation, layer->xielu_above, layer->xielu_below};
    int gated = layer->gate.data != NULL;
    activate(function, gated ? gate : up, gated ? up : NULL, in->rows + token * in->ld + from, to - from);
}

/* The neurons of sparse layers, shared among the workers by tokens, as the cutoff depends on all gates of a token. */
static void activate_sparse(Worker *w, const Layer *layer, Input *in) {
    Context *c = w->context;
    int64_t first, last = share(w, in->tokens, &first);
    for (int64_t t = first; t < last; t++) {
        cut_off_gates(c->gate + t * c->ld_inner, in->columns, layer->sparsity);
        activate_neurons(w, layer, in, (int)t, 0, in->columns);
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
    int normed = layer->feed_forward_inner.kind != NO_NORM;
    Product down = {&layer->down, &inner_in, out, c->ld_hidden};
    const char *then = first_address(w, &down, 1);
    multiply(&layer->up, 0, in, c->up, c->ld_inner, (int)from, (int)to,
             gated ? block_at(&layer->gate, 0, from) : then);
    if (gated) multiply(&layer->gate, 0, in, c->gate, c->ld_inner, (int)from, (int)to, then);
    prefetch_next_weights(w, then);
    int column = (int)first * GROUP, end = (int)last * GROUP < inner ? (int)last * GROUP : inner;
    for (int token = 0; token < tokens && column < end && !layer->sparse; token++) {
        prefetch_some(&w->cursor);
        activate_neurons(w, layer, &inner_in, token, column, end);
        prefetch_some(&w->cursor);
        if (is_packed(&layer->down) && !normed) quantize(&inner_in, token, (int)first, (int)last);
        prefetch_some(&w->cursor);
    }
    sync_threads(w);
    if (layer->sparse) {
        activate_sparse(w, layer, &inner_in);
        sync_threads(w);
    }
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
