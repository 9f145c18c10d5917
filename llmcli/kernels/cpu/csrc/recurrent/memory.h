/* Where the state of a recurrent layer is: what a convolution saw last, and the memory of each head. */
#ifndef LLM_CPU_RECURRENT_MEMORY_H
#define LLM_CPU_RECURRENT_MEMORY_H

#include "../runtime/context.h"

static float *tail_of(const Segment *segment) { return segment->tail; }

/* The memory of a head, which a token writes. */
static float *memory_of(const RecurrentMixer *r, const Segment *segment, int head) {
    return (float *)segment->memory + (int64_t)head * r->key_dim * r->value_dim;
}

/* The memory of a head before a token: the one before the step, if the token is the first of its text. */
static const float *memory_before(const Context *c, const RecurrentMixer *r, const Segment *segment, int head,
                                  int token) {
    int first = c->step->positions || token == 0;
    const void *before = first && !c->step->continued ? segment->before : NULL;
    return (const float *)(before ? before : segment->memory) + (int64_t)head * r->key_dim * r->value_dim;
}

#endif
