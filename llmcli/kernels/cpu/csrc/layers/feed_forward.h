/* A feed-forward network with up, down and, in most models, gate projection: what model/feed_forward.py computes. Called for
   dense layers and for the shared expert of a mixture. */
#ifndef LLM_CPU_LAYERS_FEED_FORWARD_H
#define LLM_CPU_LAYERS_FEED_FORWARD_H

#include "activation.h"
#include "rank_one_edits.h"
#include "../runtime/products.h"

/* Where a worker begins to read what comes after attention; nowhere where experts are yet to be chosen. */
static Place beginning_of_network(const Worker *w, const Layer *layer) {
    int64_t first;
    if (layer->experts.count) return NOWHERE;
    share(w, (w->context->model.intermediate + GROUP - 1) / GROUP, &first);
    return place_at(&layer->up, 0, first * (GROUP / BLOCK_ROWS));
}

/* A network of one gate, up and down projection: from `in` to `out`. Reading goes on at `next`. */
static void network(Worker *w, const Layer *layer, int inner, const Input *in, float *out, Place next) {
    Context *c = w->context;
    int tokens = c->step->tokens, gated = layer->gate.data != NULL;
    Input inner_in = c->inner_in;
    begin_input(&inner_in, tokens, inner);
    /* Each worker makes some groups of columns from beginning to end, so that nobody waits in between. */
    int64_t first, last = share(w, inner_in.groups, &first), blocks = row_blocks(&layer->up);
    int64_t from = first * (GROUP / BLOCK_ROWS), to = last * (GROUP / BLOCK_ROWS);
    if (to > blocks) to = blocks;
    Product down = {&layer->down, &inner_in, out, c->ld_hidden};
    Place then = beginning(w, &down, 1);
    multiply(&layer->up, 0, in, c->up, c->ld_inner, (int)from, (int)to, gated ? place_at(&layer->gate, 0, from) : then);
    if (gated) multiply(&layer->gate, 0, in, c->gate, c->ld_inner, (int)from, (int)to, then);
    go_on_at(w, then);
    int column = (int)first * GROUP, end = (int)last * GROUP < inner ? (int)last * GROUP : inner;
    for (int token = 0; token < tokens && column < end; token++) {
        const float *up = c->up + token * c->ld_inner + column, *gate = c->gate + token * c->ld_inner + column;
        float *to_row = inner_in.rows + token * inner_in.ld + column;
        ask_onward(&w->onward);
        activate(c->model.activation, gated ? gate : up, gated ? up : NULL, to_row, end - column);
        ask_onward(&w->onward);
        if (is_packed(&layer->down)) quantise(&inner_in, token, (int)first, (int)last);
        ask_onward(&w->onward);
    }
    together(w);
    if (layer->edits) {
        read_edits(w, layer, &inner_in);
        together(w);
    }
    compute(w, &down, 1, next);
    if (layer->edits) write_edits(w, layer, out);
    together(w);
}

#endif
