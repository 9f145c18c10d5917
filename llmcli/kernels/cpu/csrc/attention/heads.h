/* Queries, keys and values between their projections and attention: QK norm, rotary embedding, query scaling, and
   writing keys and values into the cache. Called by attention.h. */
#ifndef LLM_CPU_ATTENTION_HEADS_H
#define LLM_CPU_ATTENTION_HEADS_H

#include "int8_rows.h"
#include "visible_keys.h"
#include "../layers/norm.h"
#include "../layers/rope.h"
#include "../runtime/context.h"
#include "../simd/half.h"

static void clip(float *x, int n, float limit) {
    for (int i = 0; i < n; i++) x[i] = x[i] > limit ? limit : x[i] < -limit ? -limit : x[i];
}

static void scale_query(const Layer *layer, float *x, int64_t position) {
    float steps = (float)((position + layer->scaling_offset) / layer->scaling_interval);
    float factor = 1 + layer->scaling_beta * log1pf(steps);
    for (int i = 0; i < layer->key_dim; i++) x[i] *= factor;
}

/* QK norm, clipping, rotary embedding and query scaling of one head of queries or keys. */
static void prepare_head(const Context *c, const Layer *layer, float *x, const Norm *norm, int head, int token,
                         int is_query) {
    const Model *m = &c->model;
    int size = layer->key_dim;
    if (m->qk_norm != QK_WHOLE && m->clip > 0) clip(x, size, m->clip);
    if (m->qk_norm == QK_HEAD || m->qk_norm == QK_EACH_HEAD || m->qk_norm == QK_WEIGHTLESS)
        normalize(norm, x, x, size, head);
    if (layer->rope >= 0) {
        const Rotation *r = c->step->rotations + layer->rope;
        int64_t at = rotation_of(c->step, token) * r->half;
        rotate(x, r->cos + at, r->sin + at, r->half);
        if (m->qk_norm == QK_ROTATED) normalize(norm, x, x, size, 0);
    }
    if (m->qk_norm == QK_ROTATED_HEAD) normalize(norm, x, x, size, 0);
    if (is_query && layer->scaling_interval > 0) scale_query(layer, x, position_of(c->step, token));
}

/* Write a key or value of `size` numbers into the cache's memory `where`. */
static void store_in_cache(const Context *c, void *where, const Segment *segment, const float *x, int size, int head,
                           int token) {
    int format = c->model.cache_format;
    char *row = (char *)where + cache_offset(segment, head, position_of(c->step, token)) * cache_row(format, size);
    if (format == FLOAT32) {
        memcpy(row, x, (size_t)size * sizeof *x);
    } else if (format == INT8_ROWS) {
        pack_int8_row(x, size, row);
    } else {
        uint16_t *to = (uint16_t *)row;
        for (int i = 0; i < size; i++) to[i] = to_bf16(x[i]);
    }
}

static void prepare_query(const Worker *w, const Layer *layer, int head, int token) {
    const Context *c = w->context;
    prepare_head(c, layer, w->rows->q + token * c->ld_q + head * layer->key_dim, &layer->q_norm, head, token, 1);
}

static float *value_of_head(const Context *c, const Layer *layer, int head, int token) {
    return c->v + token * c->ld_kv + head * layer->value_dim;
}

static void prepare_key(const Worker *w, const Layer *layer, const Segment *segment, int head, int token) {
    const Context *c = w->context;
    float *k = w->rows->k + token * c->ld_kv + head * layer->key_dim;
    prepare_head(c, layer, k, &layer->k_norm, head, token, 0);
    store_in_cache(c, segment->keys, segment, k, layer->key_dim, head, token);
}

static void prepare_value(const Worker *w, const Layer *layer, const Segment *segment, int head, int token) {
    const Context *c = w->context;
    float *v = value_of_head(c, layer, head, token);
    if (c->model.clip > 0) clip(v, layer->value_dim, c->model.clip);
    normalize(&layer->v_norm, v, v, layer->value_dim, 0);
    store_in_cache(c, segment->values, segment, v, layer->value_dim, head, token);
}

/* A key and its value, which may be the projected key. */
static void prepare_key_and_value(const Worker *w, const Layer *layer, const Segment *segment, int head, int token) {
    const Context *c = w->context;
    if (!layer->v.data)
        memcpy(value_of_head(c, layer, head, token), w->rows->k + token * c->ld_kv + head * layer->key_dim,
               (size_t)layer->key_dim * sizeof(float));
    prepare_key(w, layer, segment, head, token);
    prepare_value(w, layer, segment, head, token);
}

/* QK norm over all heads of a token. */
static void norm_across_heads(const Worker *w, const Layer *layer, int token) {
    const Context *c = w->context;
    const Model *m = &c->model;
    int heads = layer->heads * layer->key_dim, kv = layer->k.data ? layer->kv_heads * layer->key_dim : 0;
    float *q = w->rows->q + token * c->ld_q, *k = w->rows->k + token * c->ld_kv;
    normalize(&layer->q_norm, q, q, heads, 0);
    if (kv) normalize(&layer->k_norm, k, k, kv, 0);
    if (m->clip > 0) {
        clip(q, heads, m->clip);
        clip(k, kv, m->clip);
    }
}

/* Prepare all heads of all tokens and write keys and values into the cache, shared among the workers. */
static void prepare_heads(Worker *w, const Layer *layer, const Segment *segment) {
    Context *c = w->context;
    const Model *m = &c->model;
    int tokens = c->step->tokens, heads = layer->heads + (layer->k.data ? layer->kv_heads : 0);
    int64_t first, last;
    if (m->qk_norm == QK_WHOLE) {
        last = share(w, tokens, &first);
        for (int64_t t = first; t < last; t++) norm_across_heads(w, layer, (int)t);
        sync_threads(w);
    }
    last = share(w, (int64_t)tokens * heads, &first);
    for (int64_t i = first; i < last; i++) {
        int token = (int)(i / heads), head = (int)(i % heads);
        const Segment *own = cache_of(c, segment, token);
        if (head < layer->heads)
            prepare_query(w, layer, head, token);
        else
            prepare_key_and_value(w, layer, own, head - layer->heads, token);
    }
    sync_threads(w);
}

/* Copy a single token's queries and keys into the worker's own buffers. */
static void copy_heads(const Worker *w, const Layer *layer) {
    const Context *c = w->context;
    int heads = layer->heads * layer->key_dim, kv = layer->k.data ? layer->kv_heads * layer->key_dim : 0;
    memcpy(w->rows->q, c->shared.q, (size_t)heads * sizeof(float));
    memcpy(w->rows->k, c->shared.k, (size_t)kv * sizeof(float));
    if (c->model.qk_norm == QK_WHOLE) norm_across_heads(w, layer, 0);
}

#endif
