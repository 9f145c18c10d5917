/* All logits of the last tokens, or of the last one, and the position of the greatest. */
#ifndef LLM_CPU_LOGITS_LM_HEAD_H
#define LLM_CPU_LOGITS_LM_HEAD_H

#include "argmax.h"
#include "softcap.h"
#include "../runtime/products.h"

/* Of the first `count` of the only row of logits; what a worker has just computed is still at hand. */
static void note_greatest(Worker *w, int64_t from, int64_t to, int64_t count) {
    if (to > count) to = count;
    w->greatest = from < to ? from + first_greatest(w->context->step->logits + from, to - from) : -1;
}

/* The first of the greatest that workers have noted, each of a later part of the row than the one before. */
static int64_t greatest_noted(const Context *c) {
    const float *logits = c->step->logits;
    int64_t best = -1;
    for (int i = 0; i < c->threads; i++) {
        int64_t place = c->workers[i].greatest;
        if (place >= 0 && (best < 0 || (logits[best] == logits[best] && !(logits[place] <= logits[best])))) best = place;
    }
    return best;
}

static void all_logits(Worker *w, const Product *head, Place next) {
    int64_t first, last = share_of_rows(w, head, 1, &first);
    compute(w, head, 1, next);
    if (head->in->tokens == 1) note_greatest(w, first * BLOCK_ROWS, last * BLOCK_ROWS, head->matrix->rows);
    together(w);
}

/* Scale and soft cap of all logits. */
static void cap_logits(Worker *w, int tokens) {
    const Model *m = &w->context->model;
    float *logits = w->context->step->logits;
    /* In pieces that begin at the same places of each row, since what is left of a vector is computed otherwise. */
    enum { PIECE = 1024 };
    int64_t pieces = (m->vocabulary + PIECE - 1) / PIECE, first, last = share(w, tokens * pieces, &first);
    for (int64_t i = first; i < last; i++) {
        int64_t at = i % pieces * PIECE, count = m->vocabulary - at < PIECE ? m->vocabulary - at : PIECE;
        soft_cap(logits + i / pieces * m->vocabulary + at, count, m->logit_scale, m->logit_softcap);
    }
    if (tokens == 1) note_greatest(w, first * PIECE, last * PIECE, m->vocabulary);
    together(w);
}

#endif
