/* The real-gated linear recurrent unit, whose channels each remember one value: what model/recurrent/rglru.py computes.
   The channels are shared among the threads in groups of columns. Called by layers/decoder_layer.h. */
#ifndef LLM_CPU_RECURRENT_GATED_UNIT_H
#define LLM_CPU_RECURRENT_GATED_UNIT_H

#include "activations.h"
#include "convolution.h"
#include "memory.h"
#include "../layers/activation.h"
#include "../runtime/products.h"

/* The products with the layer's input besides the first; returns how many there are. */
static int gated_unit_products(const Context *c, const RecurrentMixer *r, const Input *in, Product *all) {
    all[0] = (Product){&r->gate, in, c->output_gates, c->ld_output};
    return 1;
}

/* The gates of recurrence and input, each made from a block of channels. */
static void multiply_blocks(const Worker *w, const RecurrentMixer *r) {
    const Context *c = w->context;
    int size = r->channels / r->heads;
    int64_t first, last = share(w, 2 * (int64_t)r->heads, &first);
    for (int item = (int)first; item < last; item++) {
        int block = item / 2, at = block * size;
        const Matrix *m = item % 2 ? &r->strength : &r->decay;
        Input in = {.rows = c->convolved + at, .ld = c->ld_convolved};
        set_shape(&in, c->step->tokens, size);
        if (item % 2)
            multiply(m, block, &in, c->strengths + at, c->ld_strengths, 0, row_blocks(m), NULL);
        else
            multiply(m, block, &in, c->decays + at, c->ld_decays, 0, row_blocks(m), NULL);
    }
}

/* Some channels after a token: its memory fades by a power of a gate, and takes in as much of `x` as it has lost, or
   all of the first token of a text. Returns the new memory. */
INLINE vf gated_step(vf before, vf x, vf recurrence, vf input, vf rate, int is_first) {
    vf fading = rate * vmax(broadcast(1e-30f), vsigmoid(recurrence));
    vf taken = x * vsigmoid(input);
    if (is_first) return vexp(fading) * before + taken;
    vf lost = -vexpm1(2.0f * fading);
    for (int i = 0; i < LANES; i++) lost[i] = sqrtf(lost[i]);
    return vexp(fading) * before + lost * taken;
}

/* Channels `first` to `last` of a token; leaves the gated output in `row`. */
static void gated_unit_channels(const Context *c, const RecurrentMixer *r, const Segment *segment, float *row,
                                int token, int first, int last) {
    const float *before = memory_before(c, r, segment, 0, token), *x = c->convolved + token * c->ld_convolved;
    const float *recurrence = c->decays + token * c->ld_decays, *input = c->strengths + token * c->ld_strengths;
    float *memory = memory_of(r, segment, 0);
    int is_first = position_of(c->step, token) == 0;
    for (int i = first; i < last; i += LANES) {
        /* The last channels are padded to a vector. */
        size_t size = (size_t)(last - i < LANES ? last - i : LANES) * sizeof(float);
        vf parts[5] = {{0}};
        memcpy(parts, before + i, size);
        memcpy(parts + 1, x + i, size);
        memcpy(parts + 2, recurrence + i, size);
        memcpy(parts + 3, input + i, size);
        memcpy(parts + 4, r->rate + i, size);
        vf now = gated_step(parts[0], parts[1], parts[2], parts[3], parts[4], is_first);
        memcpy(memory + i, &now, size);
    }
    const float *gate = c->output_gates + token * c->ld_output;
    activate((Activation){.kind = c->model.activation}, gate + first, memory + first, row + first, last - first);
}

/* Leaves the output in `to` (tokens, ld_hidden). `next`: the weights that are read afterwards. */
static void gated_unit(Worker *w, const Layer *layer, const Segment *segment, float *to, const char *next) {
    Context *c = w->context;
    const RecurrentMixer *r = &layer->recurrence;
    int tokens = c->step->tokens;
    /* All workers write their channels of the one output. */
    Input own = c->shared.output_in;
    set_shape(&own, tokens, r->channels);
    Product in[2] = {{&r->in_proj, &w->rows->attention_in, c->projected, c->ld_projected}};
    Product out = {&r->out_proj, &own, to, c->ld_hidden};
    int count = 1 + gated_unit_products(c, r, &w->rows->attention_in, in + 1);
    multiply_products(w, in, count, first_address(w, &out, 1));
    sync_threads(w);
    int64_t first, last = share(w, own.groups, &first);
    int from = (int)first * GROUP, until = (int)last * GROUP < r->channels ? (int)last * GROUP : r->channels;
    for (int t = 0; t < tokens && from < until; t++)
        convolve(r, tail_of(cache_of(c, segment, t)), c->projected + t * c->ld_projected,
                 c->convolved + t * c->ld_convolved, from, until);
    sync_threads(w);
    multiply_blocks(w, r);
    sync_threads(w);
    for (int t = 0; t < tokens && from < until; t++) {
        gated_unit_channels(c, r, cache_of(c, segment, t), own.rows + t * own.ld, t, from, until);
        if (is_packed(&r->out_proj)) quantize(&own, t, (int)first, (int)last);
    }
    sync_threads(w);
    multiply_products(w, &out, 1, next);
    sync_threads(w);
}

#endif
