/* One pass of the decoder, run by all threads together: token ids in, logits out, keys and values into the caller's cache. */
#ifndef LLM_CPU_FORWARD_H
#define LLM_CPU_FORWARD_H

#include "layers/decoder_layer.h"
#include "layers/embedding.h"
#include "logits/lm_head.h"
#include "logits/screened_head.h"
#include "runtime/buffers.h"

/* The final norm of the tokens whose logits are wanted, `skipped` tokens left out, into `in`. */
static void normalise_last(Worker *w, Input *in, int skipped) {
    const Context *c = w->context;
    const Model *m = &c->model;
    int64_t first, last = own_tokens(w, in->tokens, &first);
    for (int64_t t = first; t < last; t++) {
        normalise(&m->norm, w->rows->x + (skipped + t) * c->ld_hidden, in->rows + t * in->ld, m->hidden, 0);
        if (is_packed(&m->head)) quantise(in, (int)t, 0, in->groups);
    }
}

/* One thread's part of a pass. */
static void run(Worker *w) {
    Context *c = w->context;
    const Model *m = &c->model;
    const Step *step = c->step;
    w->rows = is_single(c) ? &w->own : &c->shared;
    int64_t first, last = own_tokens(w, step->tokens, &first);
    for (int64_t t = first; t < last; t++) embed(w, (int)t);
    int skipped = step->only_last ? step->tokens - 1 : 0, tokens = step->tokens - skipped;
    Input in = w->rows->attention_in;
    begin_input(&in, tokens, m->hidden);
    Product head = {&m->head, &in, step->logits, m->vocabulary};
    for (int i = 0; i < m->layers; i++) {
        int is_last = i + 1 == m->layers;
        Products then = is_last ? (Products){{head}, 1} : attention_products(w, c->layers + i + 1);
        Place next = beginning(w, then.products, then.count);
        if (is_last && c->choosable) next.rest = NULL;
        run_layer(w, c->layers + i, step->segments + i, next);
    }
    rows_together(w);
    normalise_last(w, &in, skipped);
    rows_together(w);
    /* The next token's weights are these again. */
    Products again = attention_products(w, c->layers);
    Place next = beginning(w, again.products, again.count);
    if (c->choosable)
        screen(w, &head, next);
    else
        all_logits(w, &head, next);
    if (m->logit_scale != 1 || m->logit_softcap > 0) cap_logits(w, tokens);
}

/* The pass of a step, called by the caller's thread. `choosable`: only the greatest logit of that many first tokens is
   wanted; 0: all logits are. */
static void pass(Context *c, Step *step, int choosable) {
    c->step = step;
    c->choosable = choosable;
    begin_rows(&c->model, &c->shared, step->tokens);
    barrier_wait(&c->barrier, PATIENCE, &c->workers[0].onward);
    run(&c->workers[0]);
    step->greatest = (int32_t)greatest_noted(c);
}

/* Where most of the head had to be read whole it is tried again after a few passes, of these at most. */
enum { LONGEST_PAUSE = 64 };

/* The same where the greatest logit of the first tokens is all that is wanted. */
static void greedy_pass(Context *c, Step *step, int choosable) {
    const Matrix *head = &c->model.head;
    int looked_at = 0;
    if (c->unscreened || !can_screen(&c->model)) {
        pass(c, step, 0);
        if (!c->surprised && c->unscreened) c->unscreened--;
        return;
    }
    pass(c, step, choosable);
    for (int i = 0; i < c->threads; i++) looked_at += c->workers[i].looked_at;
    int failed = c->surprised || looked_at > row_blocks(head) / 4;
    c->unscreened = failed ? c->pause : 0;
    c->pause = !failed ? 1 : c->pause < LONGEST_PAUSE ? 2 * c->pause : LONGEST_PAUSE;
    step->unread += unread_bytes(head, c->workers[0].doubts, looked_at);
}

#endif
