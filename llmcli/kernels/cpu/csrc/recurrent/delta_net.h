/* A gated delta net, with a decay for each head or, in Kimi's delta attention, for each channel of its keys: what
   model/recurrent/delta_net.py computes. Called by recurrent_layer.h. */
#ifndef LLM_CPU_RECURRENT_DELTA_NET_H
#define LLM_CPU_RECURRENT_DELTA_NET_H

#include "activations.h"
#include "delta_rule.h"
#include "memory.h"
#include "../layers/norm.h"
#include "../runtime/products.h"

/* Gates and decays have one projection each, or two with few values between them: those that `gate_in` and `decay_in`
   hold. */
static int has_low_rank(const RecurrentMixer *r) { return r->gate_left.data || r->decay_left.data; }

/* The products with the layer's input besides the first; returns how many there are. */
static int delta_products(const Context *c, const RecurrentMixer *r, const Input *in, Product *all) {
    all[0] = r->gate_left.data ? (Product){&r->gate_left, in, c->gate_in.rows, c->gate_in.ld}
                               : (Product){&r->gate, in, c->output_gates, c->ld_output};
    all[1] = r->decay_left.data ? (Product){&r->decay_left, in, c->decay_in.rows, c->decay_in.ld}
                                : (Product){&r->decay, in, c->decays, c->ld_decays};
    all[2] = (Product){&r->strength, in, c->strengths, c->ld_strengths};
    return 3;
}

/* The second projections of gates and decays that have two. */
static void multiply_low_rank(Worker *w, const RecurrentMixer *r, const char *next) {
    const Context *c = w->context;
    int64_t first, last = share(w, c->step->tokens, &first);
    Input gates = c->gate_in, decays = c->decay_in;
    Product all[2];
    int count = 0;
    if (r->gate_left.data) {
        set_shape(&gates, c->step->tokens, r->gate_left.rows);
        all[count++] = (Product){&r->gate, &gates, c->output_gates, c->ld_output};
    }
    if (r->decay_left.data) {
        set_shape(&decays, c->step->tokens, r->decay_left.rows);
        all[count++] = (Product){&r->decay, &decays, c->decays, c->ld_decays};
    }
    for (int64_t t = first; t < last; t++) {
        if (is_packed(&r->gate) && r->gate_left.data) quantize(&gates, (int)t, 0, gates.groups);
        if (is_packed(&r->decay) && r->decay_left.data) quantize(&decays, (int)t, 0, decays.groups);
    }
    sync_threads(w);
    multiply_products(w, all, count, next);
}

/* 1 / the length of a vector; the number inside the root is that of model/recurrent/delta_net.py. */
static float inverse_length(const float *x, int n) {
    vf sums = {0};
    int i = 0;
    for (; i + LANES <= n; i += LANES) sums += load(x + i) * load(x + i);
    float squares = sum_lanes(sums);
    for (; i < n; i++) squares += x[i] * x[i];
    return 1 / sqrtf(squares + 1e-6f);
}

/* The factors by which the rows of a head's memory fade. */
static void delta_decay(const Context *c, const RecurrentMixer *r, int head, int token, float *to) {
    int channels = r->channel_decay ? r->key_dim : 1, i = 0;
    const float *raw = c->decays + token * c->ld_decays + head * channels, *bias = r->step_bias + head * channels;
    float rate = r->rate[head];
    for (; i + LANES <= channels; i += LANES) {
        vf x = load(raw + i) + load(bias + i);
        store(to + i, vexp(r->safe_decay != 0 ? r->safe_decay * vsigmoid(-rate * x) : rate * vsoftplus(x)));
    }
    for (; i < channels; i++) {
        float x = raw[i] + bias[i];
        to[i] = expf(r->safe_decay != 0 ? r->safe_decay / (1 + expf(rate * x)) : rate * softplus(x));
    }
    for (; i < r->key_dim; i++) to[i] = to[0];
}

/* Leaves the gated output of a head in `to`. */
static void delta_head(Worker *w, const RecurrentMixer *r, const Segment *segment, int head, int token, float *to) {
    const Context *c = w->context;
    int per_key = r->heads / r->groups, key_head = r->tiled ? head % r->groups : head / per_key;
    const float *mixed = c->convolved + token * c->ld_convolved;
    const float *q = mixed + key_head * r->key_dim, *k = q + r->groups * r->key_dim;
    const float *v = mixed + 2 * r->groups * r->key_dim + head * r->value_dim;
    float *scratch = w->scratch_values;
    DeltaInputs in = {scratch, scratch + r->key_dim, scratch + 2 * r->key_dim, 0};
    float of_query = inverse_length(q, r->key_dim) / sqrtf((float)r->key_dim), of_key = inverse_length(k, r->key_dim);
    delta_decay(c, r, head, token, in.decay);
    for (int i = 0; i < r->key_dim; i++) {
        in.key[i] = of_key * k[i];
        in.query[i] = of_query * q[i];
        in.overlap += in.key[i] * in.query[i];
    }
    float strength = r->strength_scale / (1 + expf(-c->strengths[token * c->ld_strengths + head]));
    delta_rule(r, memory_before(c, r, segment, head, token), memory_of(r, segment, head), &in, v, strength, to);
    normalize(&r->norm, to, to, r->value_dim, 0);
    apply_gate(to, c->output_gates + token * c->ld_output + head * r->value_dim, r->value_dim, r->sigmoid_gate);
}

#endif
