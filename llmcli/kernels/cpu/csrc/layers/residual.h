/* The residual stream: its norm as a matrix input, and adding what attention or feed-forward computed. Called by
   decoder_layer.h. */
#ifndef LLM_CPU_LAYERS_RESIDUAL_H
#define LLM_CPU_LAYERS_RESIDUAL_H

#include "norm.h"
#include "../matmul/input.h"
#include "../runtime/context.h"

static const Norm NOT_NORMED = {.kind = NO_NORM};

/* The norm of a token's residual stream, as a matrix input. */
static void norm_into(Worker *w, const Norm *norm, Input *in, int token, int quantized) {
    const Context *c = w->context;
    prefetch_some(&w->cursor);
    normalize(norm, w->rows->x + token * c->ld_x, in->rows + token * in->ld, c->model.hidden, 0);
    prefetch_some(&w->cursor);
    if (quantized) quantize(in, token, 0, in->groups);
    prefetch_some(&w->cursor);
}

/* Add the output of attention or feed-forward, in the shared `delta`, to the residual stream, after its output norm if
   there is one; with `both` first what a recurrence computed beside attention. */
static void add_delta(const Worker *w, const Norm *norm, int both, int token) {
    const Context *c = w->context;
    const float *delta = c->shared.delta + token * c->ld_hidden;
    float *own = w->rows->delta + token * c->ld_hidden, *x = w->rows->x + token * c->ld_x;
    if (both) {
        const float *beside = c->beside + token * c->ld_hidden;
        for (int i = 0; i < c->model.hidden; i++) own[i] = delta[i] + beside[i];
        delta = own;
    }
    if (norm->kind != NO_NORM) {
        normalize(norm, delta, own, c->model.hidden, 0);
        delta = own;
    }
    for (int i = 0; i < c->model.hidden; i++) x[i] += delta[i];
}

/* Add the output of attention or feed-forward to the residual stream, then apply its norm to the sum if there is one of
   sums, otherwise before to the output. */
static void add_output(const Worker *w, const Layer *layer, const Norm *norm, int both, int token) {
    float *x = w->rows->x + token * w->context->ld_x;
    add_delta(w, layer->normed_sums ? &NOT_NORMED : norm, both, token);
    if (layer->normed_sums) normalize(norm, x, x, w->context->model.hidden, 0);
}

static void scale_residual(const Worker *w, float factor, int token) {
    float *x = w->rows->x + token * w->context->ld_x;
    for (int i = 0; i < w->context->model.hidden; i++) x[i] *= factor;
}

#endif
