/* What happens to queries, keys and values between their projections and attention: QK norm, rotary embedding, query scaling,
   and writing keys and values into the cache. */
#ifndef LLM_CPU_ATTENTION_HEADS_H
#define LLM_CPU_ATTENTION_HEADS_H

#include "visible_keys.h"
#include "../layers/norm.h"
#include "../layers/rope.h"
#include "../runtime/context.h"
#include "../simd/half.h"

/* Normalised heads of one kind of a token: queries or keys. */
static void finish_head(const Context *c, const Layer *layer, float *x, const Norm *norm, int head, int token,
                        int is_query) {
    const Model *m = &c->model;
    int64_t position = position_of(c->step, token);
    if (m->qk_norm != QK_WHOLE && m->clip > 0)
        for (int i = 0; i < m->head_dim; i++) x[i] = x[i] > m->clip ? m->clip : x[i] < -m->clip ? -m->clip : x[i];
    if (m->qk_norm == QK_HEAD || m->qk_norm == QK_EACH_HEAD) normalise(norm, x, x, m->head_dim, head);
    if (layer->rope >= 0) {
        const Rotation *r = c->step->rotations + layer->rope;
        int64_t at = (c->step->skipped + token) * r->half;
        rotate(x, r->cos + at, r->sin + at, r->half);
        Norm plain = {.kind = RMS_NORM, .eps = m->qk_eps};
        if (m->qk_norm == QK_ROTATED) normalise(&plain, x, x, m->head_dim, 0);
    }
    if (is_query && layer->scaling_interval > 0) {
        float steps = (float)((position + layer->scaling_offset) / layer->scaling_interval);
        float factor = 1 + layer->scaling_beta * log1pf(steps);
        for (int i = 0; i < m->head_dim; i++) x[i] *= factor;
    }
}

static void keep(const Context *c, void *where, const Segment *segment, const float *x, int head, int token) {
    const Model *m = &c->model;
    int64_t at = place_in(segment, head, position_of(c->step, token), m->head_dim);
    if (m->cache_format == FLOAT32) {
        memcpy((float *)where + at, x, (size_t)m->head_dim * sizeof *x);
    } else {
        uint16_t *to = (uint16_t *)where + at;
        for (int i = 0; i < m->head_dim; i++) to[i] = to_bf16(x[i]);
    }
}

static void clip(float *x, int n, float limit) {
    for (int i = 0; i < n; i++) x[i] = x[i] > limit ? limit : x[i] < -limit ? -limit : x[i];
}

static void finish_query(const Worker *w, const Layer *layer, int head, int token) {
    const Context *c = w->context;
    finish_head(c, layer, w->rows->q + token * c->ld_q + head * c->model.head_dim, &layer->q_norm, head, token, 1);
}

static void finish_key(const Worker *w, const Layer *layer, const Segment *segment, int head, int token) {
    const Context *c = w->context;
    float *k = w->rows->k + token * c->ld_kv + head * c->model.head_dim;
    finish_head(c, layer, k, &layer->k_norm, head, token, 0);
    keep(c, segment->keys, segment, k, head, token);
}

static void finish_value(const Worker *w, const Segment *segment, int head, int token) {
    const Context *c = w->context;
    float *v = c->v + token * c->ld_kv + head * c->model.head_dim;
    if (c->model.clip > 0) clip(v, c->model.head_dim, c->model.clip);
    keep(c, segment->values, segment, v, head, token);
}

/* Norms over all heads of a token. */
static void finish_whole(const Worker *w, const Layer *layer, int token) {
    const Context *c = w->context;
    const Model *m = &c->model;
    int heads = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim;
    float *q = w->rows->q + token * c->ld_q, *k = w->rows->k + token * c->ld_kv;
    normalise(&layer->q_norm, q, q, heads, 0);
    normalise(&layer->k_norm, k, k, kv, 0);
    if (m->clip > 0) {
        clip(q, heads, m->clip);
        clip(k, kv, m->clip);
    }
}

/* Norms, rotation, and keys and values into the cache: each worker some heads of some tokens. */
static void finish_heads(Worker *w, const Layer *layer, const Segment *segment) {
    Context *c = w->context;
    const Model *m = &c->model;
    int tokens = c->step->tokens, heads = m->heads + 2 * m->kv_heads;
    int64_t first, last;
    if (m->qk_norm == QK_WHOLE) {
        last = share(w, tokens, &first);
        for (int64_t t = first; t < last; t++) finish_whole(w, layer, (int)t);
        together(w);
    }
    last = share(w, (int64_t)tokens * heads, &first);
    for (int64_t i = first; i < last; i++) {
        int token = (int)(i / heads), head = (int)(i % heads);
        const Segment *own = memory_of(c, segment, token);
        if (head < m->heads)
            finish_query(w, layer, head, token);
        else if ((head -= m->heads) < m->kv_heads)
            finish_key(w, layer, own, head, token);
        else
            finish_value(w, own, head - m->kv_heads, token);
    }
    together(w);
}

/* A single token's queries and keys as they have been computed, into the worker's own rows. */
static void take_heads(const Worker *w, const Layer *layer) {
    const Context *c = w->context;
    const Model *m = &c->model;
    memcpy(w->rows->q, c->shared.q, (size_t)m->heads * (size_t)m->head_dim * sizeof(float));
    memcpy(w->rows->k, c->shared.k, (size_t)m->kv_heads * (size_t)m->head_dim * sizeof(float));
    if (m->qk_norm == QK_WHOLE) finish_whole(w, layer, 0);
}

#endif
