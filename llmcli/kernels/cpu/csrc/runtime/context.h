/* The state of the decoder and of each of its threads, and how work is shared among the threads. All threads run the same
   functions; `together` waits until every thread has finished the part before. */
#ifndef LLM_CPU_RUNTIME_CONTEXT_H
#define LLM_CPU_RUNTIME_CONTEXT_H

#include "../attention/online_softmax.h"
#include "../logits/head_screening.h"
#include "../matmul/input.h"
#include "arena.h"
#include "barrier.h"
#include "cores.h"

typedef struct Context Context;

/* What is known of the tokens of a call between the large products: (tokens, ld). */
typedef struct {
    float *x, *delta, *q, *k;
    Input attention_in, output_in, second_in;
} Rows;

typedef struct {
    Context *context;
    int number;
    pthread_t thread;
    int core; /* that it has been put on, or -1 */
    Scratch scratch;
    float *scores; /* of experts, three times their number */
    Rows own, *rows;
    Onward onward;
    int64_t greatest; /* the place of the greatest of the worker's logits; -1: it has none */
    float *doubts;    /* about groups of columns of the head */
    int looked_at;    /* row blocks of the head that had to be read whole */
} Worker;

struct Context {
    Model model;
    Layer *layers;
    Barrier barrier;
    Worker *workers;
    int threads, started, leaving;
    Cores cores;
    int32_t *cpus;
    int first_core; /* of the calling thread, or -1 where threads are left alone */
    const Step *step;
    int width;       /* of a head, rounded up to a vector */
    int most_splits; /* into how many parts a head's keys may be split */
    /* Of all tokens of a call. A single token's norms, rotations and roundings are made by each worker in rows of its
       own: that takes no longer than to wait for the one who would make them. */
    Rows shared;
    float *v, *gate, *up, *edited;
    int64_t ld_hidden, ld_q, ld_kv, ld_inner;
    Input inner_in;
    float *parts; /* (splits, tokens, heads, width + 2): mixtures, then greatest score and sum of exponentials */
    /* Of experts: pairs are a token with an expert it is sent to, sorted by expert. */
    float *routed, *pair_weights, *pair_hidden, *pair_out, *shared_out, *shared_factor;
    int32_t *chosen, *pair_of, *first_pair, *pair_token;
    int64_t *first_slot;
    Input pair_in, pair_inner;
    int64_t ld_pair;
    int most_pairs;
    /* Of a pass of which only the greatest logit is wanted, among so many of the first tokens; 0: all logits are. */
    int choosable;
    float limit; /* that other rows' logits are to reach */
    Screen screen;
    atomic_int surprised;
    int unscreened, pause; /* passes to come for which nothing may be gained, and how many after the next such failure */
    Memory memory;
};

static void together(Worker *w) { barrier_wait(&w->context->barrier, PATIENCE, &w->onward); }

static int is_single(const Context *c) { return c->step->tokens == 1; }

/* The share of `total` things that falls to a worker: from *first to the result. */
static int64_t share(const Worker *w, int64_t total, int64_t *first) {
    *first = total * w->number / w->context->threads;
    return total * (w->number + 1) / w->context->threads;
}

/* The tokens whose rows a worker makes: its share of them, or the only one. */
static int64_t own_tokens(const Worker *w, int64_t tokens, int64_t *first) {
    if (!is_single(w->context)) return share(w, tokens, first);
    *first = 0;
    return 1;
}

/* Between making rows that all read and reading them. */
static void rows_together(Worker *w) {
    if (!is_single(w->context)) together(w);
}

/* Where in its text a token stands. */
static int64_t position_of(const Step *step, int token) {
    return step->positions ? step->positions[token] : step->start + token;
}

/* A layer's memory of the text that a token is of; `segment` is that of the first text. */
static const Segment *memory_of(const Context *c, const Segment *segment, int token) {
    return c->step->positions ? segment + (int64_t)token * c->model.layers : segment;
}

#endif
