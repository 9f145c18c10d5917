/* Several residual streams side by side, of which a layer computes on the first: before the layer each is predicted
   from all, after it each is corrected by what the layer changed in the first. What model/residual/altup.py computes.
   Called by forward.h and decoder_layer.h. */
#ifndef LLM_CPU_LAYERS_ALTUP_H
#define LLM_CPU_LAYERS_ALTUP_H

#include "residual.h"
#include "../runtime/products.h"
#include "../simd/exp.h"

enum { MOST_STREAMS = 8 };

/* The router's output for a token's first stream, from -1 to 1 for each stream. */
static void route_streams(const Worker *w, const Streams *altup, int token, float *routed) {
    const Context *c = w->context;
    int hidden = c->model.hidden;
    float *normed = w->rows->delta + token * c->ld_hidden;
    normalize(&altup->router_norm, w->rows->x + token * c->ld_x, normed, hidden, 0);
    for (int s = 0; s < c->model.streams; s++) {
        const float *row = altup->router + (int64_t)s * hidden;
        vf acc = {0};
        int i = 0;
        for (; i + LANES <= hidden; i += LANES) acc += load(row + i) * load(normed + i);
        float total = sum_lanes(acc);
        for (; i < hidden; i++) total += row[i] * normed[i];
        routed[s] = tanhf(total / (float)hidden);
    }
}

/* Add to each stream of a token a mixture of all of them, and keep the first, which the layer changes. */
static void predict_streams(const Worker *w, const Streams *altup, int token) {
    const Context *c = w->context;
    int hidden = c->model.hidden, streams = c->model.streams;
    float routed[MOST_STREAMS], mixing[MOST_STREAMS][MOST_STREAMS], *x = w->rows->x + token * c->ld_x;
    route_streams(w, altup, token, routed);
    for (int s = 0; s < streams * streams; s++) {
        float total = 0;
        for (int k = 0; k < streams; k++) total += altup->prediction[s * streams + k] * routed[k];
        mixing[s / streams][s % streams] = total;
    }
    for (int i = 0; i < hidden; i++) {
        float old[MOST_STREAMS];
        for (int s = 0; s < streams; s++) old[s] = x[s * hidden + i];
        for (int s = 0; s < streams; s++)
            for (int from = 0; from < streams; from++) x[s * hidden + i] += mixing[s][from] * old[from];
    }
    memcpy(w->rows->predicted + token * c->ld_hidden, x, (size_t)hidden * sizeof *x);
}

/* Add to each predicted stream of a token a part of what the layer changed in the first. */
static void correct_streams(const Worker *w, const Streams *altup, int token) {
    const Context *c = w->context;
    int hidden = c->model.hidden, streams = c->model.streams;
    float routed[MOST_STREAMS], *x = w->rows->x + token * c->ld_x;
    float *predicted = w->rows->predicted + token * c->ld_hidden;
    route_streams(w, altup, token, routed);
    for (int i = 0; i < hidden; i++) {
        float changed = x[i] - predicted[i];
        x[i] = predicted[i], predicted[i] = changed;
    }
    for (int s = 0; s < streams; s++) {
        float factor = 1;
        for (int k = 0; k < streams; k++) factor += altup->correction[s * streams + k] * routed[k];
        for (int i = 0; i < hidden; i++) x[s * hidden + i] += factor * predicted[i];
    }
}

/* Add the output in the shared `delta`, after its norm, to all streams of a token but the first. */
static void add_to_other_streams(const Worker *w, const Norm *norm, int token) {
    const Context *c = w->context;
    int hidden = c->model.hidden;
    float *own = w->rows->delta + token * c->ld_hidden, *x = w->rows->x + token * c->ld_x;
    normalize(norm, c->shared.delta + token * c->ld_hidden, own, hidden, 0);
    for (int s = 1; s < c->model.streams; s++)
        for (int i = 0; i < hidden; i++) x[s * hidden + i] += own[i];
}

static float mean_square(const float *x, int n) {
    vf acc = {0};
    int i = 0;
    for (; i + LANES <= n; i += LANES) acc += load(x + i) * load(x + i);
    float total = sum_lanes(acc);
    for (; i < n; i++) total += x[i] * x[i];
    return total / (float)n;
}

/* Scale `x` to the root mean square of `target`. */
static void scale_to_length(float *x, const float *target, int n) {
    float own = mean_square(x, n);
    float factor = sqrtf(mean_square(target, n)) / sqrtf(own < 1e-5f ? 1e-5f : own);
    for (int i = 0; i < n; i++) x[i] *= factor;
}

/* Make the other streams of all tokens from the first: projections, as long as it is. */
static void spread_streams(Worker *w) {
    Context *c = w->context;
    const Model *m = &c->model;
    Input *in = &w->rows->attention_in;
    Product products[MOST_STREAMS];
    int64_t first, last = own_tokens(w, c->step->tokens, &first);
    for (int64_t t = first; t < last; t++) norm_into(w, &NOT_NORMED, in, (int)t, is_packed(m->spread));
    sync_rows(w);
    for (int s = 1; s < m->streams; s++)
        products[s - 1] = (Product){m->spread + s - 1, in, c->shared.x + (int64_t)s * m->hidden, c->ld_x};
    multiply_products(w, products, m->streams - 1, NULL);
    sync_threads(w);
    for (int64_t t = first; t < last; t++)
        for (int s = 1; s < m->streams; s++) {
            float *x = w->rows->x + t * c->ld_x, *to = x + (int64_t)s * m->hidden;
            const float *from = c->shared.x + t * c->ld_x + (int64_t)s * m->hidden;
            if (to != from) memcpy(to, from, (size_t)m->hidden * sizeof *to);
            scale_to_length(to, x, m->hidden);
        }
}

/* Make one stream of each token after the first `skipped` ones: the mean of the first and of projections of the others,
   as long as it is. `in` is overwritten. */
static void merge_streams(Worker *w, Input *in, int skipped) {
    Context *c = w->context;
    const Model *m = &c->model;
    size_t bytes = (size_t)m->hidden * sizeof(float);
    int64_t first, last = own_tokens(w, in->tokens, &first);
    for (int s = 1; s < m->streams; s++) {
        for (int64_t t = first; t < last; t++) {
            memcpy(in->rows + t * in->ld, w->rows->x + (skipped + t) * c->ld_x + (int64_t)s * m->hidden, bytes);
            if (is_packed(m->merge)) quantize(in, (int)t, 0, in->groups);
        }
        /* Also before `delta`, which other workers may still read, is written again. */
        sync_threads(w);
        Product merge = {m->merge + s - 1, in, c->shared.delta, c->ld_hidden};
        multiply_products(w, &merge, 1, NULL);
        sync_threads(w);
        for (int64_t t = first; t < last; t++) {
            float *x = w->rows->x + (skipped + t) * c->ld_x, *to = x + (int64_t)s * m->hidden;
            memcpy(to, c->shared.delta + t * c->ld_hidden, bytes);
            scale_to_length(to, x, m->hidden);
        }
    }
    for (int64_t t = first; t < last; t++) {
        float *x = w->rows->x + (skipped + t) * c->ld_x;
        for (int i = 0; i < m->hidden; i++) {
            for (int s = 1; s < m->streams; s++) x[i] += x[s * m->hidden + i];
            x[i] /= (float)m->streams;
        }
    }
}

#endif
