/* The embedding of a token, scaled, plus its position's embedding in models with learned positions, and normalized
   in some. Called by forward.h. */
#ifndef LLM_CPU_LAYERS_EMBEDDING_H
#define LLM_CPU_LAYERS_EMBEDDING_H

#include "norm.h"
#include "../matmul/read_row.h"
#include "../runtime/context.h"

static void embed(const Worker *w, int token) {
    const Context *c = w->context;
    const Model *m = &c->model;
    float *x = w->rows->x + token * c->ld_x;
    read_row(&m->embedding, c->step->ids[token], x);
    for (int i = 0; i < m->hidden; i++) x[i] *= m->embed_scale;
    if (m->positions.data) {
        float *added = w->rows->delta + token * c->ld_hidden;
        read_row(&m->positions, (int)position_of(c->step, token), added);
        for (int i = 0; i < m->hidden; i++) x[i] += added[i];
    }
    if (m->embed_norm.kind != NO_NORM) normalize(&m->embed_norm, x, x, m->hidden, 0);
}

#endif
