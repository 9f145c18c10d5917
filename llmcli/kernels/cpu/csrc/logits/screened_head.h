/* The output head of a greedy pass: head_screening.h, shared among the threads. Called by forward.h. */
#ifndef LLM_CPU_LOGITS_SCREENED_HEAD_H
#define LLM_CPU_LOGITS_SCREENED_HEAD_H

#include "head_screening.h"
#include "lm_head.h"

/* The exact logit of the row with the greatest estimate. */
static float best_logit(Context *c, const Product *head) {
    int64_t best = argmax_of_workers(c), block = best / BLOCK_ROWS;
    if (!isfinite(head->out[best])) return -INFINITY;
    if (read_whole_block(head->matrix, head->in, head->out, &c->screen, block, block)) c->is_unreliable = 1;
    c->workers[0].blocks_read++;
    return head->out[best];
}

/* Read completely this worker's row blocks with logits that may reach the limit. */
static void read_candidates(Worker *w, const Product *head, float limit, int64_t first, int64_t last) {
    Context *c = w->context;
    for (int64_t block = next_candidate(&c->screen, limit, first, last), then; block < last; block = then) {
        then = next_candidate(&c->screen, limit, block + 1, last);
        if (read_whole_block(head->matrix, head->in, head->out, &c->screen, block, then < last ? then : block))
            c->is_unreliable = 1;
        w->blocks_read++;
    }
}

/* The greatest logit exactly; the others are estimates below it. */
static void screened_argmax(Worker *w, const Product *head, WeightAddress next) {
    Context *c = w->context;
    int64_t first, last = share_of_rows(w, head, 1, &first);
    w->blocks_read = 0;
    find_error_weights(head->in, w->error_weights);
    estimate_logits(head->matrix, head->in, w->error_weights, head->out, &c->screen, (int)first, (int)last, next);
    prefetch_next_weights(w, next);
    record_argmax(w, first * BLOCK_ROWS, last * BLOCK_ROWS, c->argmax_tokens);
    sync_threads(w);
    if (w->number == 0) c->limit = best_logit(c, head);
    sync_threads(w);
    read_candidates(w, head, c->limit, first, last);
    sync_threads(w);
    if (c->is_unreliable) read_candidates(w, head, -INFINITY, first, last);
    record_argmax(w, first * BLOCK_ROWS, last * BLOCK_ROWS, c->argmax_tokens);
    sync_threads(w);
}

#endif
