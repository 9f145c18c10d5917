/* The state of the decoder and of each of its threads, and how work is shared among the threads. All threads run the
   same functions; `sync_threads` waits until every thread has finished the part before. */
#ifndef LLM_CPU_RUNTIME_CONTEXT_H
#define LLM_CPU_RUNTIME_CONTEXT_H

#include "../attention/online_softmax.h"
#include "../matmul/input.h"
#include "arena.h"
#include "barrier.h"
#include "cores.h"

typedef struct Context Context;

enum { MOST_TEXTS = 2 * TILE }; /* in a pass */

/* How the next token of each text in a pass is sampled. */
typedef struct {
    const Choice *choices;
    const int32_t *texts; /* which of the choices each text has */
    int32_t *tokens;      /* output: of each text */
    int number;           /* of the step, among those of a call */
} TextSampling;

/* The activations of the tokens of a call between matrix products: (tokens, ld). `x` is the residual stream, `delta`
   what is added to it. */
typedef struct {
    float *x, *delta, *q, *k, *predicted; /* predicted: the first of several streams before the layer */
    Input attention_in, output_in, second_in, laurel_in, query_in;
} Activations;

typedef struct {
    Context *context;
    int number;
    pthread_t thread;
    int core; /* the core it is pinned to, or -1 */
    Scratch scratch;
    float *scores; /* of the router: three times the number of experts */
    float *scratch_values; /* of a recurrent head: decays, a key and a query */
    Activations own, *rows;
    PrefetchCursor cursor;
    int64_t greatest; /* the position of the maximum of the worker's logits; -1: it has none */
} Worker;

struct Context {
    Model model;
    Layer *layers;
    Barrier barrier;
    Worker *workers;
    int threads, started, leaving;
    Cores cores;
    int32_t *cpus;
    int caller_core; /* of the calling thread; -1: threads are not pinned */
    const Pass *step;
    const TextSampling *sampling; /* of a step of several texts whose tokens the workers sample, or NULL */
    Segment *text_segments;       /* of the texts that have not ended yet */
    int first_layer, end_layer; /* that are being run */
    int first_row;              /* of the step's first token in the buffers of all tokens */
    int width;       /* the greatest of a key or value, padded to a vector */
    int most_splits; /* the most parts that a head's keys are split into */
    /* Of all tokens of a call. For a single token, every worker computes norms, rotations and quantization in its own
       buffers: that takes no longer than waiting for another worker. */
    Activations shared;
    float *v, *attention_gates, *gate, *up, *edited;
    int64_t ld_x, ld_hidden, ld_q, ld_kv, ld_inner;
    Input inner_in;
    float *vectors, *table_rows; /* (tokens, ld): per-layer embeddings, and what the table has of them */
    float *laurel_left, *laurel_out; /* (tokens, ld): of the path beside attention, in low rank and whole */
    int64_t ld_vectors, ld_rank;
    /* Of latent attention, (tokens, ld): queries, and in the space of latents, what was found there, and values. */
    float *latent_queries, *absorbed, *mixed, *head_values;
    int64_t ld_absorbed, ld_mixed, ld_values;
    /* Of recurrent layers, (tokens, ld): what the input is projected to, before and after the convolution, and gates of
       outputs, decays and strengths; what gates and decays are made from, if that has a low rank. */
    float *projected, *convolved, *output_gates, *decays, *strengths;
    float *beside; /* (tokens, ld_hidden): what a recurrence computed beside attention */
    Input gate_in, decay_in;
    int64_t ld_projected, ld_convolved, ld_output, ld_decays, ld_strengths;
    float *parts; /* (splits, tokens, heads, value width + 2): mixtures, then greatest score and sum of exponentials */
    /* Of experts. A pair is a token and one of its experts; pairs are sorted by expert. */
    float *routed, *pair_weights, *pair_hidden, *pair_out, *shared_out, *shared_factor;
    int32_t *chosen, *pair_of, *first_pair, *pair_token;
    int64_t *first_slot;
    Input pair_in, pair_inner;
    float *latents; /* (tokens, ld_latent): what experts read instead of the layer's input */
    Input latent_sum;
    int64_t ld_pair, ld_pair_out, ld_latent;
    int most_pairs;
    Arena arena;
};

static void sync_threads(Worker *w) { barrier_wait(&w->context->barrier, PATIENCE, &w->cursor); }

static int is_single_token(const Context *c) { return c->step->tokens == 1; }

/* A worker's share of `total` items: from *first to the result. */
static int64_t share(const Worker *w, int64_t total, int64_t *first) {
    *first = total * w->number / w->context->threads;
    return total * (w->number + 1) / w->context->threads;
}

/* The tokens that a worker computes norms of: its share, or the only token. */
static int64_t own_tokens(const Worker *w, int64_t tokens, int64_t *first) {
    if (!is_single_token(w->context)) return share(w, tokens, first);
    *first = 0;
    return 1;
}

/* Wait before activations are read that other workers compute. */
static void sync_rows(Worker *w) {
    if (!is_single_token(w->context)) sync_threads(w);
}

/* The position of a token in its sequence. */
static int64_t position_of(const Pass *step, int token) {
    return step->positions ? step->positions[token] : step->start + token;
}

/* The row of the step's rotations for a token. */
static int64_t rotation_of(const Pass *step, int token) {
    return step->rotated ? step->rotated[token] : step->skipped + token;
}

/* A layer's KV cache of the sequence of a token; `segment` is that of the first sequence. */
static const Segment *cache_of(const Context *c, const Segment *segment, int token) {
    return c->step->positions ? segment + (int64_t)token * c->model.layers : segment;
}

#endif
