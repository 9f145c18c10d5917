/* One decoder layer: attention, then feed-forward or a mixture of experts, or both in parallel, as in model/block.py.
   Called by forward.h. */
#ifndef LLM_CPU_LAYERS_DECODER_LAYER_H
#define LLM_CPU_LAYERS_DECODER_LAYER_H

#include "../attention/attention.h"
#include "feed_forward.h"
#include "mixture_of_experts.h"
#include "residual.h"

static int needs_quantized(const Layer *layer, int second) {
    if (second) return is_packed(&layer->up) || is_packed(&layer->gate);
    return is_packed(&layer->q) || is_packed(&layer->k) || is_packed(&layer->v) || is_packed(&layer->attention_gate);
}

/* `next`: the weights that are read after this layer. */
static void run_layer(Worker *w, const Layer *layer, const Segment *segment, const char *next) {
    Context *c = w->context;
    const Model *m = &c->model;
    Activations *rows = w->rows;
    int64_t first, last = own_tokens(w, c->step->tokens, &first);
    int both = m->parallel && !m->shared_norm;
    const Input *second = m->shared_norm ? &rows->attention_in : &rows->second_in;
    int quantized = needs_quantized(layer, 0) || (m->shared_norm && needs_quantized(layer, 1));
    for (int64_t t = first; t < last; t++) {
        norm_into(w, &layer->input_norm, &rows->attention_in, (int)t, quantized);
        if (both) norm_into(w, &layer->second_norm, &rows->second_in, (int)t, needs_quantized(layer, 1));
    }
    sync_rows(w);
    attention(w, layer, segment);
    for (int64_t t = first; t < last; t++) {
        add_delta(w, &layer->attention_output, (int)t);
        if (!m->parallel) norm_into(w, &layer->second_norm, &rows->second_in, (int)t, needs_quantized(layer, 1));
    }
    sync_rows(w);
    if (layer->experts.count)
        mixture_of_experts(w, layer, second, c->shared.delta, next);
    else
        feed_forward(w, layer, layer->inner, second, c->shared.delta, next);
    for (int64_t t = first; t < last; t++) add_delta(w, &layer->feed_forward_output, (int)t);
}

#endif
