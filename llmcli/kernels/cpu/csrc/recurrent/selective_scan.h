/* Mamba, whose channels each have a separate memory: what model/recurrent/mamba.py computes. The channels are shared
   among the threads in groups of columns. Called by layers/decoder_layer.h. */
#ifndef LLM_CPU_RECURRENT_SELECTIVE_SCAN_H
#define LLM_CPU_RECURRENT_SELECTIVE_SCAN_H

#include "activations.h"
#include "convolution.h"
#include "memory.h"
#include "../layers/norm.h"
#include "../runtime/products.h"

/* Let the memory `before` (size) of a channel fade, value by value, write `x` with the step size `step` in the direction
   `b`, and read it by `read`. `memory`, which may be the same, gets the result. */
static float scan_channel(const float *before, float *memory, const float *rate, const float *b, const float *read,
                          float step, float x, int size) {
    float written = step * x;
    vf sums = {0};
    int n = 0;
    for (; n + LANES <= size; n += LANES) {
        vf now = load(before + n) * vexp(step * load(rate + n)) + written * load(b + n);
        store(memory + n, now);
        sums += now * load(read + n);
    }
    float found = sum_lanes(sums);
    for (; n < size; n++) {
        memory[n] = before[n] * expf(step * rate[n]) + written * b[n];
        found += memory[n] * read[n];
    }
    return found;
}

/* What step sizes are made from, B and C of a token, each normalized. */
static void normalize_steps(const RecurrentMixer *r, Input *in, int token) {
    int rank = r->decay.columns;
    float *row = in->rows + token * in->ld;
    normalize(&r->step_norm, row, row, rank, 0);
    normalize(&r->write_norm, row + rank, row + rank, r->key_dim, 0);
    normalize(&r->read_norm, row + rank + r->key_dim, row + rank + r->key_dim, r->key_dim, 0);
    if (is_packed(&r->decay)) quantize(in, token, 0, in->groups);
}

/* Channels `first` to `last` of a token, whose values are in `row`; the gated output takes their place. */
static void scan_channels(const Context *c, const RecurrentMixer *r, const Segment *segment, float *row, int token,
                          int first, int last) {
    const float *before = memory_before(c, r, segment, 0, token);
    float *memory = memory_of(r, segment, 0), *step = c->decays + token * c->ld_decays;
    const float *b = c->decay_in.rows + token * c->decay_in.ld + r->decay.columns, *read = b + r->key_dim;
    int i = first;
    for (; i + LANES <= last; i += LANES) store(step + i, vsoftplus(load(step + i)));
    for (; i < last; i++) step[i] = softplus(step[i]);
    for (i = first; i < last; i++) {
        int64_t at = (int64_t)i * r->key_dim;
        row[i] = r->skip[i] * row[i] +
                 scan_channel(before + at, memory + at, r->rate + at, b, read, step[i], row[i], r->key_dim);
    }
    apply_gate(row + first, c->projected + token * c->ld_projected + r->channels + first, last - first, 0);
}

/* Leaves the output in `to` (tokens, ld_hidden). `next`: the weights that are read afterwards. */
static void selective_scan(Worker *w, const Layer *layer, const Segment *segment, float *to, const char *next) {
    Context *c = w->context;
    const RecurrentMixer *r = &layer->recurrence;
    int tokens = c->step->tokens;
    /* All workers write their channels of the one output, where the convolved values are before. */
    Input own = c->shared.output_in, steps = c->decay_in;
    set_shape(&own, tokens, r->channels);
    set_shape(&steps, tokens, r->decay.columns);
    Product in = {&r->in_proj, &w->rows->attention_in, c->projected, c->ld_projected};
    Product made = {&r->decay_left, &own, steps.rows, steps.ld}, step = {&r->decay, &steps, c->decays, c->ld_decays};
    Product out = {&r->out_proj, &own, to, c->ld_hidden};
    multiply_products(w, &in, 1, first_address(w, &made, 1));
    sync_threads(w);
    int64_t first, last = share(w, own.groups, &first), some, end = share(w, tokens, &some);
    int from = (int)first * GROUP, until = (int)last * GROUP < r->channels ? (int)last * GROUP : r->channels;
    for (int t = 0; t < tokens && from < until; t++) {
        float *row = own.rows + t * own.ld;
        convolve(r, tail_of(cache_of(c, segment, t)), c->projected + t * c->ld_projected, row, from, until);
        if (is_packed(&r->decay_left)) quantize(&own, t, (int)first, (int)last);
    }
    sync_threads(w);
    multiply_products(w, &made, 1, first_address(w, &step, 1));
    sync_threads(w);
    for (int64_t t = some; t < end; t++) normalize_steps(r, &steps, (int)t);
    sync_threads(w);
    multiply_products(w, &step, 1, first_address(w, &out, 1));
    sync_threads(w);
    /* The memories of a group stay in the processor's cache while all tokens change them. */
    for (int g = (int)first; g < last; g++) {
        int begin = g * GROUP, stop = begin + GROUP < r->channels ? begin + GROUP : r->channels;
        for (int t = 0; t < tokens; t++) {
            scan_channels(c, r, cache_of(c, segment, t), own.rows + t * own.ld, t, begin, stop);
            if (is_packed(&r->out_proj)) quantize(&own, t, g, g + 1);
        }
    }
    sync_threads(w);
    multiply_products(w, &out, 1, next);
    sync_threads(w);
}

#endif
