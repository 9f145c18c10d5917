/* A gated delta net or Mamba-2, in place of attention or beside it: layers whose memory has heads, as in model/recurrent.
   Tokens of one text go through the recurrence one after the other; the heads are shared among the threads. Called by
   layers/decoder_layer.h. */
#ifndef LLM_CPU_RECURRENT_RECURRENT_LAYER_H
#define LLM_CPU_RECURRENT_RECURRENT_LAYER_H

#include "convolution.h"
#include "delta_net.h"
#include "gated_unit.h"
#include "mamba2.h"
#include "selective_scan.h"
#include "short_convolution.h"

/* The products of any recurrent layer with its input; returns how many there are. */
static int recurrent_products(const Worker *w, const Layer *layer, Product *all) {
    const Context *c = w->context;
    const RecurrentMixer *r = &layer->recurrence;
    const Input *in = &w->rows->attention_in;
    all[0] = (Product){&r->in_proj, in, c->projected, c->ld_projected};
    if (r->kind == DELTA) return 1 + delta_products(c, r, in, all + 1);
    return r->kind == GATED_UNIT ? 1 + gated_unit_products(c, r, in, all + 1) : 1;
}

/* Leaves the output in `to` (tokens, ld_hidden). `next`: the weights that are read afterwards. */
static void layer_of_heads(Worker *w, const Layer *layer, const Segment *segment, float *to, const char *next) {
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
    if (is_delta && has_low_rank(r)) multiply_low_rank(w, r, first_address(w, &out, 1));
    last = share(w, r->channels, &first);
    for (int t = 0; t < tokens; t++) {
        const float *x = c->projected + t * c->ld_projected + (is_delta ? 0 : inner);
        convolve(r, tail_of(cache_of(c, segment, t)), x, c->convolved + t * c->ld_convolved, first, last);
    }
    sync_threads(w);
    /* The memory of a head stays in the processor's cache while all tokens change it. */
    last = share(w, r->heads, &first);
    for (int head = (int)first; head < last; head++) {
        for (int t = 0; t < tokens; t++) {
            const Segment *state = cache_of(c, segment, t);
            float *found = own.rows + t * own.ld + (int64_t)head * r->value_dim;
            if (is_delta)
                delta_head(w, r, state, head, t, found);
            else
                state_space_head(c, r, state, head, t, found);
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

/* What a layer has in place of attention or beside it; leaves the output in `to` (tokens, ld_hidden). */
static void recurrent_layer(Worker *w, const Layer *layer, const Segment *segment, float *to, const char *next) {
    switch (layer->recurrence.kind) {
    case SHORT_CONVOLUTION:
        short_convolution(w, layer, segment, to, next);
        return;
    case SELECTIVE_SCAN:
        selective_scan(w, layer, segment, to, next);
        return;
    case GATED_UNIT:
        gated_unit(w, layer, segment, to, next);
        return;
    default:
        layer_of_heads(w, layer, segment, to, next);
    }
}

#endif
