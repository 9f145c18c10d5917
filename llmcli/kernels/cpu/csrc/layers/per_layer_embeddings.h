/* Per-layer embeddings: a vector of each token for every layer, and what a layer adds for its vector; what
   model/residual/per_layer_embeddings.py computes. Called by forward.h and decoder_layer.h. */
#ifndef LLM_CPU_LAYERS_PER_LAYER_EMBEDDINGS_H
#define LLM_CPU_LAYERS_PER_LAYER_EMBEDDINGS_H

#include "activation.h"
#include "residual.h"
#include "../matmul/stored_row.h"
#include "../runtime/products.h"

/* The vectors of all layers, (norm(project(h) / sqrt(hidden)) + sqrt(size) table[id]) / sqrt(2), where h is the
   embedding. */
static void look_up_vectors(Worker *w) {
    Context *c = w->context;
    const PerLayer *p = &c->model.per_layer;
    int tokens = c->step->tokens, layers = c->model.layers;
    Input *in = &w->rows->attention_in;
    int64_t first, last = own_tokens(w, tokens, &first);
    for (int64_t t = first; t < last; t++) norm_into(w, &NOT_NORMED, in, (int)t, is_packed(&p->projection));
    sync_rows(w);
    last = share(w, tokens, &first);
    for (int64_t t = first; t < last; t++) {
        int id = c->step->ids[t];
        read_table_row(&p->table, id < p->tokens ? id : 0, c->table_rows + t * c->ld_vectors);
    }
    Product project = {&p->projection, in, c->vectors, c->ld_vectors};
    multiply_products(w, &project, 1, NULL);
    sync_threads(w);
    last = share(w, (int64_t)tokens * layers, &first);
    for (int64_t i = first; i < last; i++) {
        int64_t at = i / layers * c->ld_vectors + i % layers * p->size;
        float *vector = c->vectors + at, *row = c->table_rows + at;
        for (int j = 0; j < p->size; j++) vector[j] *= p->projection_scale;
        normalize(&p->norm, vector, vector, p->size, 0);
        for (int j = 0; j < p->size; j++) vector[j] = (vector[j] + p->table_scale * row[j]) * 0.70710678f;
    }
}

/* The address of the first weights a worker reads for the vector of a layer. */
static const char *per_layer_address(const Worker *w, const Layer *layer) {
    int64_t first;
    share(w, (w->context->model.per_layer.size + GROUP - 1) / GROUP, &first);
    return block_at(&layer->per_layer_gate, 0, first * (GROUP / BLOCK_ROWS));
}

/* From `in`, the residual stream, to what is added to it before its norm: down(act(gate(in)) * vector), in the shared
   `delta`. `next`: the weights that are read afterwards. */
static void per_layer_input(Worker *w, const Layer *layer, const Input *in, const char *next) {
    Context *c = w->context;
    int tokens = c->step->tokens, size = c->model.per_layer.size;
    int64_t vector = (layer - c->layers) * size;
    Input gated = c->inner_in;
    set_shape(&gated, tokens, size);
    int64_t first, last = share(w, gated.groups, &first), blocks = row_blocks(&layer->per_layer_gate);
    int64_t block = first * (GROUP / BLOCK_ROWS), end_block = last * (GROUP / BLOCK_ROWS);
    if (end_block > blocks) end_block = blocks;
    Product down = {&layer->per_layer_down, &gated, c->shared.delta, c->ld_hidden};
    const char *then = first_address(w, &down, 1);
    multiply(&layer->per_layer_gate, 0, in, c->gate, c->ld_inner, (int)block, (int)end_block, then);
    int column = (int)first * GROUP, end = (int)last * GROUP < size ? (int)last * GROUP : size;
    for (int t = 0; t < tokens && column < end; t++) {
        const float *from = c->vectors + (c->first_row + t) * c->ld_vectors + vector + column;
        activate((Activation){.kind = c->model.activation}, c->gate + t * c->ld_inner + column, from,
                 gated.rows + t * gated.ld + column, end - column);
        if (is_packed(&layer->per_layer_down)) quantize(&gated, t, (int)first, (int)last);
    }
    sync_threads(w);
    multiply_products(w, &down, 1, next);
    sync_threads(w);
}

#endif
