/* The residual stream: its norm as a matrix input, and adding what attention or feed-forward computed. */
#ifndef LLM_CPU_LAYERS_RESIDUAL_H
#define LLM_CPU_LAYERS_RESIDUAL_H

#include "norm.h"
#include "../matmul/input.h"
#include "../runtime/context.h"

/* Put a token's normed residual stream into an input. */
static void enter(Worker *w, const Norm *norm, Input *in, int token, int quantised) {
    const Context *c = w->context;
    ask_onward(&w->onward);
    normalise(norm, w->rows->x + token * c->ld_hidden, in->rows + token * in->ld, c->model.hidden, 0);
    ask_onward(&w->onward);
    if (quantised) quantise(in, token, 0, in->groups);
    ask_onward(&w->onward);
}

/* Add what attention or feed-forward has left in the shared delta, normalized, to the residual stream. */
static void add_delta(const Worker *w, const Norm *norm, int token) {
    const Context *c = w->context;
    const float *delta = c->shared.delta + token * c->ld_hidden;
    float *own = w->rows->delta + token * c->ld_hidden, *x = w->rows->x + token * c->ld_hidden;
    if (norm->kind != NO_NORM) {
        normalise(norm, delta, own, c->model.hidden, 0);
        delta = own;
    }
    for (int i = 0; i < c->model.hidden; i++) x[i] += delta[i];
}

#endif
