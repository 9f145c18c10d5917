/* The output head: all logits of the last tokens, or of the last one, and the position of the maximum. Called by
   forward.h. */
#ifndef LLM_CPU_LOGITS_LM_HEAD_H
#define LLM_CPU_LOGITS_LM_HEAD_H

#include "argmax.h"
#include "softcap.h"
#include "../runtime/products.h"

/* The position of the maximum among this worker's logits, up to position `count`, while they are in the cache. */
static void record_argmax(Worker *w, int64_t from, int64_t to, int64_t count) {
    if (to > count) to = count;
    w->greatest = from < to ? from + argmax(w->context->step->logits + from, to - from) : -1;
}

/* The position of the maximum over all workers, the first of equal ones; workers have consecutive parts of the row. */
static int64_t argmax_of_workers(const Context *c) {
    const float *logits = c->step->logits;
    int64_t best = -1;
    for (int i = 0; i < c->threads; i++) {
        int64_t place = c->workers[i].greatest;
        if (place >= 0 && (best < 0 || (logits[best] == logits[best] && !(logits[place] <= logits[best]))))
            best = place;
    }
    return best;
}

static void all_logits(Worker *w, const Product *head, const char *next) {
    int64_t first, last = share_of_rows(w, head, 1, &first);
    multiply_products(w, head, 1, next);
    if (head->in->tokens == 1) record_argmax(w, first * BLOCK_ROWS, last * BLOCK_ROWS, head->matrix->rows);
    sync_threads(w);
}

/* Scale and soft cap of all logits. */
static void cap_logits(Worker *w, int tokens) {
    const Model *m = &w->context->model;
    float *logits = w->context->step->logits;
    /* In pieces that begin at the same columns of each row: the last values of a piece, which do not fill a vector, are
       rounded differently. */
    enum { PIECE = 1024 };
    int64_t pieces = (m->vocabulary + PIECE - 1) / PIECE, first, last = share(w, tokens * pieces, &first);
    for (int64_t i = first; i < last; i++) {
        int64_t at = i % pieces * PIECE, count = m->vocabulary - at < PIECE ? m->vocabulary - at : PIECE;
        soft_cap_logits(logits + i / pieces * m->vocabulary + at, count, m->logit_scale, m->logit_softcap);
    }
    if (tokens == 1) record_argmax(w, first * PIECE, last * PIECE, m->vocabulary);
    sync_threads(w);
}

#endif
