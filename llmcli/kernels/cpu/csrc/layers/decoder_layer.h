/* One decoder layer: attention or what replaces it, then feed-forward or a mixture of experts, or both in parallel, as in
   model/block.py. Some layers have only one of the two. Called by forward.h. */
#ifndef LLM_CPU_LAYERS_DECODER_LAYER_H
#define LLM_CPU_LAYERS_DECODER_LAYER_H

#include "../attention/latent.h"
#include "altup.h"
#include "feed_forward.h"
#include "mixture_of_experts.h"
#include "per_layer_embeddings.h"
#include "residual.h"
#include "../recurrent/recurrent_layer.h"

/* The address of the first weights a worker reads for a layer. */
static const char *layer_address(const Worker *w, const Layer *layer) {
    Product all[MOST_PRODUCTS];
    if (!has_mixer(layer)) return feed_forward_address(w, layer);
    if (!layer->recurrence.kind) return attention_address(w, layer);
    int count = recurrent_products(w, layer, all);
    return first_address(w, all, count);
}

static int needs_quantized(const Layer *layer, int second) {
    if (second) return is_packed(&layer->up) || is_packed(&layer->gate) || is_packed(&layer->experts.latent_in);
    return is_packed(&layer->q) || is_packed(&layer->k) || is_packed(&layer->v) || is_packed(&layer->attention_gate) ||
           is_packed(&layer->laurel_left) || is_packed(&layer->recurrence.in_proj) ||
           is_packed(&layer->recurrence.gate);
}

/* Add what the layer makes of its vector to the residual stream, or to all streams but the first. */
static void add_per_layer_input(Worker *w, const Layer *layer, const char *next) {
    Input *in = &w->rows->second_in;
    const float *scale = layer->altup.scale;
    int64_t first, last = own_tokens(w, w->context->step->tokens, &first);
    for (int64_t t = first; t < last; t++) {
        norm_into(w, &NOT_NORMED, in, (int)t, !scale && is_packed(&layer->per_layer_gate));
        if (!scale) continue;
        for (int i = 0; i < in->columns; i++) in->rows[t * in->ld + i] *= scale[i];
        if (is_packed(&layer->per_layer_gate)) quantize(in, (int)t, 0, in->groups);
    }
    sync_rows(w);
    per_layer_input(w, layer, in, next);
    for (int64_t t = first; t < last; t++) {
        if (layer->altup.router)
            add_to_other_streams(w, &layer->per_layer_norm, (int)t);
        else
            add_delta(w, &layer->per_layer_norm, 0, (int)t);
    }
}

/* Attention or what replaces it, or both, added to the residual stream. `next`: the weights that are read afterwards. */
static void run_mixer(Worker *w, const Layer *layer, const Segment *segment, const char *next) {
    Context *c = w->context;
    int64_t first, last = own_tokens(w, c->step->tokens, &first);
    int attends = has_attention(layer), both = attends && layer->recurrence.kind;
    if (layer->recurrence.kind)
        recurrent_layer(w, layer, segment, both ? c->beside : c->shared.delta, both ? attention_address(w, layer) : next);
    if (layer->latent.rank)
        latent_attention(w, layer, segment, next);
    else if (attends)
        attention(w, layer, segment, next);
    for (int64_t t = first; t < last; t++) {
        add_output(w, layer, &layer->attention_output, both, (int)t);
        if (layer->laurel_right.data) add_laurel(w, layer, (int)t);
    }
}

/* Feed-forward or experts, added to the residual stream. */
static void run_feed_forward(Worker *w, const Layer *layer, const Input *in, const char *next) {
    Context *c = w->context;
    int64_t first, last = own_tokens(w, c->step->tokens, &first);
    if (layer->experts.count)
        mixture_of_experts(w, layer, in, c->shared.delta, next);
    else
        feed_forward(w, layer, layer->inner, in, c->shared.delta, next);
    for (int64_t t = first; t < last; t++) add_output(w, layer, &layer->feed_forward_output, 0, (int)t);
}

/* `next`: the weights that are read after this layer. */
static void run_layer(Worker *w, const Layer *layer, const Segment *segment, const char *next) {
    Context *c = w->context;
    const Model *m = &c->model;
    Activations *rows = w->rows;
    int64_t first, last = own_tokens(w, c->step->tokens, &first);
    int mixes = has_mixer(layer), feeds = has_feed_forward(layer), both = m->parallel && !m->shared_norm;
    const Input *second = m->shared_norm ? &rows->attention_in : &rows->second_in;
    int quantized = needs_quantized(layer, 0) || (m->shared_norm && needs_quantized(layer, 1));
    for (int64_t t = first; t < last; t++) {
        if (layer->altup.router) predict_streams(w, &layer->altup, (int)t);
        if (mixes) norm_into(w, &layer->input_norm, &rows->attention_in, (int)t, quantized);
        if (both) norm_into(w, &layer->second_norm, &rows->second_in, (int)t, needs_quantized(layer, 1));
    }
    if (mixes) {
        sync_rows(w);
        run_mixer(w, layer, segment, feeds ? feed_forward_address(w, layer) : next);
    }
    for (int64_t t = first; t < last && feeds && !m->parallel; t++)
        norm_into(w, &layer->second_norm, &rows->second_in, (int)t, needs_quantized(layer, 1));
    int extended = layer->per_layer_gate.data != NULL;
    if (feeds) {
        sync_rows(w);
        run_feed_forward(w, layer, second, extended ? per_layer_address(w, layer) : next);
    }
    for (int64_t t = first; t < last && layer->altup.router; t++) correct_streams(w, &layer->altup, (int)t);
    if (extended) add_per_layer_input(w, layer, next);
    if (layer->output_scale != 1)
        for (int64_t t = first; t < last; t++) scale_residual(w, layer->output_scale, (int)t);
}

#endif
