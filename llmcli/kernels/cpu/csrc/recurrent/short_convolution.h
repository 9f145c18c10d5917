/* A gated short convolution in place of attention, as in model/recurrent/short_conv.py. Its gated inputs are cached like
   the keys of one head. The channels are shared among the threads, so that each reads only inputs that it has cached.
   Called by layers/decoder_layer.h. */
#ifndef LLM_CPU_RECURRENT_SHORT_CONVOLUTION_H
#define LLM_CPU_RECURRENT_SHORT_CONVOLUTION_H

#include "../attention/visible_keys.h"
#include "../runtime/products.h"
#include "../simd/half.h"

/* Cache the gated inputs of a token in channels `first` to `last`. */
static void cache_inputs(const Context *c, const RecurrentMixer *r, const Segment *segment, int token, int first,
                         int last) {
    const float *gate = c->projected + token * c->ld_projected, *x = gate + 2 * r->channels;
    int64_t at = cache_offset(segment, 0, position_of(c->step, token)) * r->channels;
    if (c->model.input_format == FLOAT32) {
        float *to = (float *)segment->keys + at;
        for (int i = first; i < last; i++) to[i] = gate[i] * x[i];
    } else {
        uint16_t *to = (uint16_t *)segment->keys + at;
        for (int i = first; i < last; i++) to[i] = to_bf16(gate[i] * x[i]);
    }
}

/* Convolve these channels of the cached inputs of a token and those before it, and multiply them by the output gate.
   Inputs before the text are zeros. */
static void convolve_cached(const Context *c, const RecurrentMixer *r, const Segment *segment, int token, int first,
                            int last, float *to) {
    int64_t before = r->width - 1, position = position_of(c->step, token);
    const float *gate = c->projected + token * c->ld_projected + r->channels;
    for (int i = first; i < last; i++) to[i] = 0;
    for (int64_t j = position < before ? before - position : 0; j <= before; j++) {
        const float *weight = r->conv + j * r->channels;
        int64_t at = cache_offset(segment, 0, position - before + j) * r->channels;
        if (c->model.input_format == FLOAT32) {
            const float *x = (const float *)segment->keys + at;
            for (int i = first; i < last; i++) to[i] += weight[i] * x[i];
        } else {
            const uint16_t *x = (const uint16_t *)segment->keys + at;
            for (int i = first; i < last; i++) to[i] += weight[i] * from_bf16(x[i]);
        }
    }
    if (r->conv_bias)
        for (int i = first; i < last; i++) to[i] += r->conv_bias[i];
    for (int i = first; i < last; i++) to[i] *= gate[i];
}

/* Leaves the output in `to` (tokens, ld_hidden). `next`: the weights that are read afterwards. */
static void short_convolution(Worker *w, const Layer *layer, const Segment *segment, float *to, const char *next) {
    Context *c = w->context;
    const RecurrentMixer *r = &layer->recurrence;
    int tokens = c->step->tokens;
    /* All workers write their channels of the one output. */
    Input found = c->shared.output_in;
    set_shape(&found, tokens, r->channels);
    Product in = {&r->in_proj, &w->rows->attention_in, c->projected, c->ld_projected};
    Product out = {&r->out_proj, &found, to, c->ld_hidden};
    multiply_products(w, &in, 1, first_address(w, &out, 1));
    sync_threads(w);
    int64_t first, last = share(w, found.groups, &first);
    int from = (int)first * GROUP, until = (int)last * GROUP < r->channels ? (int)last * GROUP : r->channels;
    /* All tokens of a batch may be of one text. */
    for (int t = 0; t < tokens; t++) cache_inputs(c, r, cache_of(c, segment, t), t, from, until);
    for (int t = 0; t < tokens && from < until; t++) {
        convolve_cached(c, r, cache_of(c, segment, t), t, from, until, found.rows + t * found.ld);
        if (is_packed(&r->out_proj)) quantize(&found, t, (int)first, (int)last);
    }
    sync_threads(w);
    multiply_products(w, &out, 1, next);
    sync_threads(w);
}

#endif
