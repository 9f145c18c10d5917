/* Latent attention: each position caches one row for all heads, a latent and a rotated part. Instead of computing keys
   and values of every head, queries are projected into the space of latents, where the rows are keys and their latents
   values; what `LatentAttention` of model/attention/latent_attention.py computes. Called by layers/decoder_layer.h. */
#ifndef LLM_CPU_ATTENTION_LATENT_H
#define LLM_CPU_ATTENTION_LATENT_H

#include "attention.h"

/* Some columns of rows of floats as the input of dense matrices. */
static Input columns_of(float *rows, int64_t ld, int columns, int tokens) {
    Input in = {.rows = rows, .ld = ld};
    set_shape(&in, tokens, columns);
    return in;
}

static void rotate_part(const Context *c, const Layer *layer, float *x, int token) {
    if (layer->rope < 0) return;
    const Rotation *r = c->step->rotations + layer->rope;
    int64_t at = rotation_of(c->step, token) * r->half;
    rotate(x, r->cos + at, r->sin + at, r->half);
}

/* The queries of all heads (tokens, ld_q), which may come from a compressed query. */
static float *latent_queries(Worker *w, const Layer *layer) {
    Context *c = w->context;
    const Latent *l = &layer->latent;
    if (!l->query.data) return c->shared.q;
    Input in = w->rows->query_in;
    set_shape(&in, c->step->tokens, l->query.columns);
    int64_t first, last = own_tokens(w, in.tokens, &first);
    for (int64_t t = first; t < last; t++) {
        normalize(&l->query_norm, c->shared.q + t * c->ld_q, in.rows + t * in.ld, in.columns, 0);
        if (is_packed(&l->query)) quantize(&in, (int)t, 0, in.groups);
    }
    sync_rows(w);
    Product query = {&l->query, &in, c->latent_queries, c->ld_q};
    multiply_products(w, &query, 1, NULL);
    sync_threads(w);
    return c->latent_queries;
}

/* Project the queries of some heads into the space of latents: (tokens, heads, rank + rope). */
static void absorb_queries(const Worker *w, const Layer *layer, float *queries) {
    Context *c = w->context;
    const Latent *l = &layer->latent;
    int tokens = c->step->tokens, size = l->nope + l->rope;
    int64_t first, last = share(w, layer->heads, &first);
    for (int head = (int)first; head < last; head++) {
        Input in = columns_of(queries + head * size, c->ld_q, l->nope, tokens);
        float *to = c->absorbed + (int64_t)head * layer->key_dim;
        multiply(&l->to_keys, head, &in, to, c->ld_absorbed, 0, row_blocks(&l->to_keys), NULL);
        for (int t = 0; t < tokens; t++) {
            float *query = to + t * c->ld_absorbed;
            memcpy(query + l->rank, in.rows + t * in.ld + l->nope, (size_t)l->rope * sizeof *query);
            rotate_part(c, layer, query + l->rank, t);
            if (layer->scaling_interval > 0) scale_query(layer, query, position_of(c->step, t));
        }
    }
}

/* Write the row of a token, its normed latent and its rotated part, into the cache. */
static void cache_latent(const Worker *w, const Layer *layer, const Segment *segment, int token) {
    const Context *c = w->context;
    float *row = c->shared.k + token * c->ld_kv;
    normalize(&layer->latent.norm, row, row, layer->latent.rank, 0);
    rotate_part(c, layer, row + layer->latent.rank, token);
    store_in_cache(c, segment->keys, segment, row, layer->key_dim, 0, token);
}

/* Merge what some heads found in the parts of the keys, and project it from latents to values: (tokens, heads,
   value_dim). */
static void project_values(const Worker *w, const Layer *layer) {
    Context *c = w->context;
    const Latent *l = &layer->latent;
    int tokens = c->step->tokens;
    int64_t first, last = share(w, layer->heads, &first);
    for (int head = (int)first; head < last; head++) {
        Input in = columns_of(c->mixed + (int64_t)head * l->rank, c->ld_mixed, l->rank, tokens);
        for (int t = 0; t < tokens; t++) merge_head(c, layer, head, t, in.rows + t * in.ld);
        multiply(&l->to_values, head, &in, c->head_values + (int64_t)head * l->value_dim, c->ld_values, 0,
                 row_blocks(&l->to_values), NULL);
    }
}

/* The values of a token, times its gates, as the input of the output projection. */
static void take_values(const Worker *w, const Layer *layer, Input *in, int token) {
    const Context *c = w->context;
    int size = layer->latent.value_dim;
    float *to = in->rows + token * in->ld;
    memcpy(to, c->head_values + token * c->ld_values, (size_t)in->columns * sizeof *to);
    for (int head = 0; head < layer->heads && layer->attention_gate.data; head++)
        gate_head(c, to + head * size, size, head, token);
    if (is_packed(&layer->o)) quantize(in, token, 0, in->groups);
}

/* Leaves the attention output in the shared `delta`. `next`: the weights that are read afterwards. */
static void latent_attention(Worker *w, const Layer *layer, const Segment *segment, const char *next) {
    Context *c = w->context;
    int tokens = c->step->tokens;
    Product in[MOST_PRODUCTS];
    int count = attention_products(w, layer, in);
    Input values = w->rows->output_in;
    set_shape(&values, tokens, layer->heads * layer->latent.value_dim);
    Product out = {&layer->o, &values, c->shared.delta, c->ld_hidden};
    multiply_products(w, in, count, NULL);
    sync_threads(w);
    absorb_queries(w, layer, latent_queries(w, layer));
    int64_t first, last = share(w, tokens, &first);
    for (int64_t t = first; t < last; t++) cache_latent(w, layer, cache_of(c, segment, (int)t), (int)t);
    sync_threads(w);
    attend_all(w, layer, segment);
    sync_threads(w);
    project_values(w, layer);
    sync_threads(w);
    last = own_tokens(w, tokens, &first);
    for (int64_t t = first; t < last; t++) take_values(w, layer, &values, (int)t);
    sync_rows(w);
    multiply_products(w, &out, 1, next);
    sync_threads(w);
}

#endif
