/* What a recurrent layer has in place of attention or beside it: a gated delta net or Mamba-2, as in model/recurrent. Tokens of one
   text go through the recurrence one after the other; the heads are shared among the threads. Called by
   layers/decoder_layer.h. */
#ifndef LLM_CPU_RECURRENT_RECURRENT_LAYER_H
#define LLM_CPU_RECURRENT_RECURRENT_LAYER_H

#include "convolution.h"
#include "delta_rule.h"
#include "state_space.h"
#include "../layers/norm.h"
#include "../runtime/products.h"

/* The products with the layer's input; returns how many there are. */
static int recurrent_products(const Worker *w, const Layer *layer, Product *all) {
    const Context *c = w->context;
    const RecurrentMixer *r = &layer->recurrence;
    const Input *in = &w->rows->attention_in;
    int count = 0;
    all[count++] = (Product){&r->in_proj, in, c->projected, c->ld_projected};
    if (r->kind != DELTA) return count;
    all[count++] = (Product){&r->gate, in, c->output_gates, c->ld_output};
    all[count++] = (Product){&r->decay, in, c->decays, c->ld_heads};
    all[count++] = (Product){&r->strength, in, c->strengths, c->ld_heads};
    return count;
}

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

static void delta_head(Worker *w, const Layer *layer, const Segment *segment, int head, int token, float *to) {
    const Context *c = w->context;
    const RecurrentMixer *r = &layer->recurrence;
    int per_key = r->heads / r->groups, key_head = r->tiled ? head % r->groups : head / per_key;
    const float *mixed = c->convolved + token * c->ld_convolved;
    const float *q = mixed + key_head * r->key_dim, *k = q + r->groups * r->key_dim;
    const float *v = mixed + 2 * r->groups * r->key_dim + head * r->value_dim;
    float decay = c->decays[token * c->ld_heads + head] + r->step_bias[head];
    float strength = c->strengths[token * c->ld_heads + head];
    float of_q = inverse_length(q, r->key_dim) / sqrtf((float)r->key_dim);
    delta_rule(r, memory_before(c, r, segment, head, token), memory_of(r, segment, head), q, of_q, k,
               inverse_length(k, r->key_dim), v, expf(r->rate[head] * softplus(decay)),
               r->strength_scale / (1 + expf(-strength)), w->scratch_values, to);
    normalize(&r->norm, to, to, r->value_dim, 0);
    const float *gate = c->output_gates + token * c->ld_output + head * r->value_dim;
    for (int i = 0; i < r->value_dim; i++) to[i] *= (r->sigmoid_gate ? 1 : gate[i]) / (1 + expf(-gate[i]));
}

static void apply_gate(float *to, const float *gate, int n) {
    int i = 0;
    for (; i + LANES <= n; i += LANES) store(to + i, load(to + i) * load(gate + i) * vsigmoid(load(gate + i)));
    for (; i < n; i++) to[i] *= gate[i] / (1 + expf(-gate[i]));
}

static void state_space_head(Worker *w, const Layer *layer, const Segment *segment, int head, int token, float *to) {
    const Context *c = w->context;
    const RecurrentMixer *r = &layer->recurrence;
    int inner = r->heads * r->value_dim, group = head / (r->heads / r->groups);
    const float *mixed = c->convolved + token * c->ld_convolved, *x = mixed + head * r->value_dim;
    const float *b = mixed + inner + group * r->key_dim, *read = b + r->groups * r->key_dim;
    const float *projected = c->projected + token * c->ld_projected, *gate = projected + head * r->value_dim;
    float step = softplus(projected[inner + r->channels + head] + r->step_bias[head]);
    step = fminf(fmaxf(step, r->min_step), r->max_step);
    state_space(r, memory_before(c, r, segment, head, token), memory_of(r, segment, head), x, b, read, step,
                expf(step * r->rate[head]), r->skip[head], to);
    if (!r->norm_first) apply_gate(to, gate, r->value_dim);
}

/* Normalize the output of a state space (inner), group by group. */
static void normalize_groups(const Context *c, const RecurrentMixer *r, float *row, int inner, int token) {
    int size = inner / r->groups;
    Norm norm = r->norm;
    for (int g = 0; g < r->groups; g++, norm.weight += size)
        normalize(&norm, row + (int64_t)g * size, row + (int64_t)g * size, size, 0);
    if (r->norm_first) apply_gate(row, c->projected + token * c->ld_projected, inner);
}

/* Leaves the output in `to` (tokens, ld_hidden). `next`: the weights that are read afterwards. */
static void recurrent_layer(Worker *w, const Layer *layer, const Segment *segment, float *to, const char *next) {
    Context *c = w->context;
    const RecurrentMixer *r = &layer->recurrence;
    int tokens = c->step->tokens, is_delta = r->kind == DELTA;
    int64_t first, last, inner = (int64_t)r->heads * r->value_dim;
    Product in[MOST_PRODUCTS];
    int count = recurrent_products(w, layer, in);
    /* All workers write their heads of the one output. */
    Input own = c->shared.output_in;
    set_shape(&own, tokens, (int)inner);
    Product out = {&r->out_proj, &own, to, c->ld_hidden};
    multiply_products(w, in, count, first_address(w, &out, 1));
    sync_threads(w);
    last = share(w, r->channels, &first);
    for (int t = 0; t < tokens; t++) {
        const float *x = c->projected + t * c->ld_projected + (is_delta ? 0 : inner);
        convolve(r, tail_of(cache_of(c, segment, t)), x, c->convolved + t * c->ld_convolved, first, last);
    }
    sync_threads(w);
    last = share(w, r->heads, &first);
    for (int t = 0; t < tokens; t++) {
        const Segment *state = cache_of(c, segment, t);
        for (int head = (int)first; head < last; head++) {
            float *found = own.rows + t * own.ld + (int64_t)head * r->value_dim;
            (is_delta ? delta_head : state_space_head)(w, layer, state, head, t, found);
        }
    }
    sync_threads(w);
    last = share(w, tokens, &first);
    for (int64_t t = first; t < last; t++) {
        float *row = own.rows + t * own.ld;
        if (!is_delta && r->norm.kind != NO_NORM) normalize_groups(c, r, row, (int)inner, (int)t);
        if (is_packed(&r->out_proj)) quantize(&own, (int)t, 0, own.groups);
    }
    sync_threads(w);
    multiply_products(w, &out, 1, next);
    sync_threads(w);
}

#endif
