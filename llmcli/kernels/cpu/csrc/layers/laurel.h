/* A path of low rank beside attention, from the same input: what model/residual/laurel.py computes. Its two matrices
   are multiplied together with attention's. Called by attention/attention.h and decoder_layer.h. */
#ifndef LLM_CPU_LAYERS_LAUREL_H
#define LLM_CPU_LAYERS_LAUREL_H

#include "norm.h"
#include "../runtime/products.h"

/* The low-rank projection of a token as the input of the second matrix. */
static void laurel_into(Worker *w, const Layer *layer, Input *in, int token) {
    const Context *c = w->context;
    memcpy(in->rows + token * in->ld, c->laurel_left + token * c->ld_rank, (size_t)in->columns * sizeof *in->rows);
    if (is_packed(&layer->laurel_right)) quantize(in, token, 0, in->groups);
}

/* To the residual stream of a token after attention: (stream + input + norm(path)) / sqrt(2). */
static void add_laurel(const Worker *w, const Layer *layer, int token) {
    const Context *c = w->context;
    float *own = w->rows->delta + token * c->ld_hidden, *x = w->rows->x + token * c->ld_x;
    const float *input = w->rows->attention_in.rows + token * w->rows->attention_in.ld;
    normalize(&layer->laurel_norm, c->laurel_out + token * c->ld_hidden, own, c->model.hidden, 0);
    for (int i = 0; i < c->model.hidden; i++) x[i] = (x[i] + input[i] + own[i]) * 0.70710678f;
}

#endif
