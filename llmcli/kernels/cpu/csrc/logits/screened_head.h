/* The output head of a pass that wants only the greatest logit: head_screening.h shared among the threads. */
#ifndef LLM_CPU_LOGITS_SCREENED_HEAD_H
#define LLM_CPU_LOGITS_SCREENED_HEAD_H

#include "head_screening.h"
#include "lm_head.h"

/* The logit of the row that is estimated to have the greatest. */
static float logit_of_best(Context *c, const Product *head) {
    int64_t best = greatest_noted(c), block = best / BLOCK_ROWS;
    if (!isfinite(head->out[best])) return -INFINITY;
    if (look_at(head->matrix, head->in, head->out, &c->screen, block, block)) c->surprised = 1;
    c->workers[0].looked_at++;
    return head->out[best];
}

/* Read those of a worker's row blocks whole whose logits may reach the limit. */
static void look_again(Worker *w, const Product *head, float limit, int64_t first, int64_t last) {
    Context *c = w->context;
    for (int64_t block = next_to_look_at(&c->screen, limit, first, last), then; block < last; block = then) {
        then = next_to_look_at(&c->screen, limit, block + 1, last);
        if (look_at(head->matrix, head->in, head->out, &c->screen, block, then < last ? then : block)) c->surprised = 1;
        w->looked_at++;
    }
}

/* The greatest logit of those that can be chosen, and for the others something less. */
static void screen(Worker *w, const Product *head, Place next) {
    Context *c = w->context;
    int64_t first, last = share_of_rows(w, head, 1, &first);
    w->looked_at = 0;
    find_doubts(head->in, w->doubts);
    estimate(head->matrix, head->in, w->doubts, head->out, &c->screen, (int)first, (int)last, next);
    go_on_at(w, next);
    note_greatest(w, first * BLOCK_ROWS, last * BLOCK_ROWS, c->choosable);
    together(w);
    if (w->number == 0) c->limit = logit_of_best(c, head);
    together(w);
    look_again(w, head, c->limit, first, last);
    together(w);
    if (c->surprised) look_again(w, head, -INFINITY, first, last);
    note_greatest(w, first * BLOCK_ROWS, last * BLOCK_ROWS, c->choosable);
    together(w);
}

#endif
