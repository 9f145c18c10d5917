/* One layer of the decoder: attention and feed-forward or a mixture of experts, in one of the three orders of model/block.py. */
#ifndef LLM_CPU_LAYERS_DECODER_LAYER_H
#define LLM_CPU_LAYERS_DECODER_LAYER_H

#include "../attention/attention.h"
#include "feed_forward.h"
#include "mixture_of_experts.h"
#include "residual.h"

static int reads_quantised(const Layer *layer, int second) {
    if (!second) return is_packed(&layer->q) || is_packed(&layer->k) || is_packed(&layer->v);
    return is_packed(&layer->up) || is_packed(&layer->gate);
}

/* Reading goes on at `next` after the layer. */
static void run_layer(Worker *w, const Layer *layer, const Segment *segment, Place next) {
    Context *c = w->context;
    const Model *m = &c->model;
    Rows *rows = w->rows;
    int64_t first, last = own_tokens(w, c->step->tokens, &first);
    int both = m->parallel && !m->shared_norm;
    const Input *second = m->shared_norm ? &rows->attention_in : &rows->second_in;
    int quantised = reads_quantised(layer, 0) || (m->shared_norm && reads_quantised(layer, 1));
    for (int64_t t = first; t < last; t++) {
        enter(w, &layer->input_norm, &rows->attention_in, (int)t, quantised);
        if (both) enter(w, &layer->second_norm, &rows->second_in, (int)t, reads_quantised(layer, 1));
    }
    rows_together(w);
    attention(w, layer, segment);
    for (int64_t t = first; t < last; t++) {
        add_delta(w, &layer->attention_output, (int)t);
        if (!m->parallel) enter(w, &layer->second_norm, &rows->second_in, (int)t, reads_quantised(layer, 1));
    }
    rows_together(w);
    if (layer->experts.count)
        mixture(w, layer, second, c->shared.delta, next);
    else
        network(w, layer, m->intermediate, second, c->shared.delta, next);
    for (int64_t t = first; t < last; t++) add_delta(w, &layer->feed_forward_output, (int)t);
}

#endif
