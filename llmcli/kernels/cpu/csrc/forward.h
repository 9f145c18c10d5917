/* One forward pass, run by all threads together: token ids in, logits out, keys and values into the cache. Called by
   decoder.c. */
#ifndef LLM_CPU_FORWARD_H
#define LLM_CPU_FORWARD_H

#include "layers/decoder_layer.h"
#include "layers/embedding.h"
#include "logits/lm_head.h"
#include "logits/text_sampling.h"
#include "runtime/buffers.h"

/* The final norm of all tokens after the first `skipped` ones, into `in`. */
static void normalize_last(Worker *w, Input *in, int skipped) {
    const Context *c = w->context;
    const Model *m = &c->model;
    int64_t first, last = own_tokens(w, in->tokens, &first);
    for (int64_t t = first; t < last; t++) {
        normalize(&m->norm, w->rows->x + (skipped + t) * c->ld_x, in->rows + t * in->ld, m->hidden, 0);
        if (is_packed(m->head_dense.data ? &m->head_dense : &m->head)) quantize(in, (int)t, 0, in->groups);
    }
}

/* The dense layer in front of the head, from `in` to `in`. */
static void dense_before_head(Worker *w, Input *in) {
    const Context *c = w->context;
    const Model *m = &c->model;
    Product dense = {&m->head_dense, in, c->shared.delta, c->ld_hidden};
    /* Other workers may still read what the last layer left in `delta`. */
    sync_threads(w);
    multiply_products(w, &dense, 1, NULL);
    sync_threads(w);
    int64_t first, last = own_tokens(w, in->tokens, &first);
    for (int64_t t = first; t < last; t++) {
        float *to = in->rows + t * in->ld;
        activate((Activation){.kind = m->head_activation}, c->shared.delta + t * c->ld_hidden, NULL, to, m->hidden);
        normalize(&m->head_norm, to, to, m->hidden, 0);
        if (is_packed(&m->head)) quantize(in, (int)t, 0, in->groups);
    }
    sync_rows(w);
}

static void embed_tokens(Worker *w) {
    int64_t first, last = own_tokens(w, w->context->step->tokens, &first);
    for (int64_t t = first; t < last; t++) embed(w, (int)t);
    if (w->context->model.per_layer.size) look_up_vectors(w);
    if (w->context->model.streams > 1) spread_streams(w);
}

/* Continue with the last of the tokens that went through the layers before. */
static void take_last_token(Worker *w) {
    const Context *c = w->context;
    const float *x = c->shared.x + c->first_row * c->ld_x;
    memcpy(w->rows->x, x, (size_t)c->model.hidden * (size_t)c->model.streams * sizeof *x);
}

/* One worker's part of the context's layers, with the embedding before the first and the head after the last. */
static void run_worker(Worker *w) {
    Context *c = w->context;
    const Model *m = &c->model;
    const Pass *step = c->step;
    /* Another worker may set those of the next step before this one returns. */
    const int end = c->end_layer;
    const TextSampling *sampling = c->sampling;
    w->rows = is_single_token(c) ? &w->own : &c->shared;
    if (c->first_layer == 0)
        embed_tokens(w);
    else
        take_last_token(w);
    int skipped = step->only_last ? step->tokens - 1 : 0, tokens = step->tokens - skipped;
    Input in = w->rows->attention_in;
    set_shape(&in, tokens, m->hidden);
    Product head = {&m->head, &in, step->logits, m->vocabulary};
    for (int i = c->first_layer; i < end; i++) {
        const char *next = i + 1 < m->layers ? layer_address(w, c->layers + i + 1) : first_address(w, &head, 1);
        run_layer(w, c->layers + i, step->segments + i, next);
    }
    sync_rows(w);
    if (end < m->layers) return;
    if (m->streams > 1) merge_streams(w, &in, skipped);
    normalize_last(w, &in, skipped);
    sync_rows(w);
    if (m->head_dense.data) dense_before_head(w, &in);
    /* The next pass starts with the weights of the first layer. */
    all_logits(w, &head, layer_address(w, c->layers));
    if (m->logit_scale != 1 || m->logit_softcap > 0) cap_logits(w, tokens);
    if (sampling) sample_texts(w, sampling);
}

static void run_layers(Context *c, const Pass *step, int first, int end, int first_row) {
    c->step = step;
    c->first_layer = first, c->end_layer = end, c->first_row = first_row;
    set_shapes(&c->model, &c->shared, step->tokens);
    barrier_wait(&c->barrier, PATIENCE, &c->workers[0].cursor);
    run_worker(&c->workers[0]);
}

/* The pass of a step, called in the caller's thread. Only the last token goes through the last layers if they read the
   keys and values of earlier ones: no token needs what they make of an earlier token. */
static void run_pass(Context *c, Pass *step) {
    const Model *m = &c->model;
    int skipped = step->only_last && !step->positions ? step->tokens - 1 : 0;
    if (skipped && m->first_sharing < m->layers) {
        Pass last = *step;
        last.start += skipped, last.skipped += skipped, last.tokens = 1;
        run_layers(c, step, 0, m->first_sharing, 0);
        run_layers(c, &last, m->first_sharing, m->layers, skipped);
        c->step = step;
    } else {
        run_layers(c, step, 0, m->layers, 0);
    }
    step->greatest = (int32_t)argmax_of_workers(c);
}

#endif
