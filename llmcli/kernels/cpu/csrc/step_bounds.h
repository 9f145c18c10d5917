/* Whether a step is within the bounds of the model, the cache and the buffers. Checked by decoder.c before each
   call. */
#ifndef LLM_CPU_STEP_BOUNDS_H
#define LLM_CPU_STEP_BOUNDS_H

#include "attention/visible_keys.h"
#include "runtime/context.h"

/* 0, or what is out of bounds for `tokens` tokens of a sequence from position `start`. */
static int check_text(const Context *c, const Segment *segments, int64_t start, int tokens) {
    const Model *m = &c->model;
    if (start < 0) return 2;
    for (int i = 0; i < m->layers; i++) {
        const Segment *s = segments + i;
        int kind = c->layers[i].recurrence.kind;
        if (!has_attention(c->layers + i) && kind != SHORT_CONVOLUTION) continue;
        if (s->first > first_visible(c->layers + i, start)) return 4;
        if (s->first + s->size < start + tokens) return 4;
    }
    return m->positions.data && start + tokens > m->positions.rows ? 5 : 0;
}

/* 0, or which of the step's numbers is out of bounds. */
static int check_step(const Context *c, const Pass *step) {
    const Model *m = &c->model;
    int problem = 0;
    if (step->tokens < 1 || step->tokens > m->capacity) return 1;
    /* There are buffers for the parts of the keys of this many sequences. */
    if (step->positions && step->tokens > MOST_TEXTS) return 1;
    for (int t = 0; t < step->tokens; t++)
        if (step->ids[t] < 0 || step->ids[t] >= m->vocabulary) return 3;
    if (!step->positions) return check_text(c, step->segments, step->start, step->tokens);
    for (int t = 0; t < step->tokens && !problem; t++)
        problem = check_text(c, step->segments + (int64_t)t * m->layers, step->positions[t], 1);
    return problem;
}

#endif
