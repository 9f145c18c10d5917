/* One forward pass, run by all threads together: token ids in, logits out, keys and values into the cache. Called by
   decoder.c. */
#ifndef LLM_CPU_FORWARD_H
#define LLM_CPU_FORWARD_H

#include "layers/decoder_layer.h"
#include "layers/embedding.h"
#include "logits/lm_head.h"
#include "runtime/buffers.h"

/* The final norm of all tokens after the first `skipped` ones, into `in`. */
static void normalize_last(Worker *w, Input *in, int skipped) {
    const Context *c = w->context;
    const Model *m = &c->model;
    int64_t first, last = own_tokens(w, in->tokens, &first);
    for (int64_t t = first; t < last; t++) {
        normalize(&m->norm, w->rows->x + (skipped + t) * c->ld_hidden, in->rows + t * in->ld, m->hidden, 0);
        if (is_packed(&m->head)) quantize(in, (int)t, 0, in->groups);
    }
}

/* One worker's part of a pass. */
static void run_worker(Worker *w) {
    Context *c = w->context;
    const Model *m = &c->model;
    const Pass *step = c->step;
    w->rows = is_single_token(c) ? &w->own : &c->shared;
    int64_t first, last = own_tokens(w, step->tokens, &first);
    for (int64_t t = first; t < last; t++) embed(w, (int)t);
    int skipped = step->only_last ? step->tokens - 1 : 0, tokens = step->tokens - skipped;
    Input in = w->rows->attention_in;
    set_shape(&in, tokens, m->hidden);
    Product head = {&m->head, &in, step->logits, m->vocabulary};
    for (int i = 0; i < m->layers; i++) {
        int is_last = i + 1 == m->layers;
        Products then = is_last ? (Products){{head}, 1} : attention_products(w, c->layers + i + 1);
        const char *next = first_address(w, then.products, then.count);
        run_layer(w, c->layers + i, step->segments + i, next);
    }
    sync_rows(w);
    normalize_last(w, &in, skipped);
    sync_rows(w);
    /* The next pass starts with the weights of the first layer. */
    Products again = attention_products(w, c->layers);
    const char *next = first_address(w, again.products, again.count);
    all_logits(w, &head, next);
    if (m->logit_scale != 1 || m->logit_softcap > 0) cap_logits(w, tokens);
}

/* The pass of a step, called in the caller's thread. */
static void run_pass(Context *c, Pass *step) {
    c->step = step;
    set_shapes(&c->model, &c->shared, step->tokens);
    barrier_wait(&c->barrier, PATIENCE, &c->workers[0].cursor);
    run_worker(&c->workers[0]);
    step->greatest = (int32_t)argmax_of_workers(c);
}

#endif
