/* The attention of one layer, from the normed residual stream to what is added to it: what `Attention` of model/attention.py
   computes. Called by layers/decoder_layer.h. */
#ifndef LLM_CPU_ATTENTION_ATTENTION_H
#define LLM_CPU_ATTENTION_ATTENTION_H

#include "attend.h"
#include "heads.h"
#include "work_split.h"
#include "../layers/feed_forward.h"
#include "../runtime/products.h"

/* A single token's heads, by the worker who needs them: the new key and value are kept by the one who will see them. */
static void finish_item(Worker *w, const Layer *layer, const Segment *segment, const AttentionItem *item) {
    int group = w->context->model.heads / w->context->model.kv_heads;
    for (int head = item->head * group; head < (item->head + 1) * group; head++) {
        finish_query(w, layer, head, 0);
        ask_onward(&w->onward);
    }
    if (item->to <= item->start) return;
    finish_key(w, layer, segment, item->head, 0);
    ask_onward(&w->onward);
    finish_value(w, segment, item->head, 0);
    ask_onward(&w->onward);
}

/* `taken` pieces of work have been shared out before, of other texts; returns how many there are now. */
static int64_t attend_text(Worker *w, const Layer *layer, const Segment *segment, int first_token, int own,
                           int64_t taken) {
    Context *c = w->context;
    const Model *m = &c->model;
    AttentionPlan plan = plan_of(c, layer, first_token);
    int tokens = c->step->tokens, group = m->heads / m->kv_heads, width = c->width;
    int items = m->kv_heads * plan.tiles * plan.splits, turn = (int)(taken % c->threads);
    for (int number = (w->number - turn + c->threads) % c->threads; number < items; number += c->threads) {
        AttentionItem item = attention_item(c, layer, plan, first_token, own, number);
        int64_t next = 0;
        if (number + c->threads < items) {
            AttentionItem then = attention_item(c, layer, plan, first_token, own, number + c->threads);
            next = ((then.head - item.head) * segment->size + then.from - item.from) * m->head_dim;
        }
        if (is_single(c)) finish_item(w, layer, segment, &item);
        attend(m, layer, segment, item.head, w->rows->q + item.token * c->ld_q + item.head * group * m->head_dim,
               c->ld_q, item.start, item.count, item.from, item.to, next, &w->onward, &w->scratch);
        ask_onward(&w->onward);
        for (int r = 0; r < item.count * group; r++) {
            int64_t row = (int64_t)(item.token + r / group) * m->heads + item.head * group + r % group;
            float *to_part = c->parts + ((int64_t)item.split * tokens * m->heads + row) * (width + 2);
            memcpy(to_part, w->scratch.mixed + (int64_t)r * width, (size_t)width * sizeof(float));
            to_part[width] = w->scratch.most[r];
            to_part[width + 1] = w->scratch.sums[r];
        }
    }
    return taken + items;
}

/* Ask for what a worker will read first of a single token's keys and values, before it is known what to look for. */
static void ask_for_memory(const Worker *w, const Layer *layer, const Segment *segment) {
    const Context *c = w->context;
    const Model *m = &c->model;
    AttentionPlan plan = plan_of(c, layer, 0);
    if (w->number >= m->kv_heads * plan.splits) return;
    AttentionItem item = attention_item(c, layer, plan, 0, 1, w->number);
    int value = m->cache_format == BFLOAT16 ? 2 : 4;
    int64_t at = place_in(segment, item.head, item.from, m->head_dim) * value;
    int64_t bytes = (item.to - item.from) * m->head_dim * value;
    if (bytes > ASKED_FIRST) bytes = ASKED_FIRST;
    ask_for((const char *)segment->keys + at, bytes);
    ask_for((const char *)segment->values + at, bytes);
}

static void attend_all(Worker *w, const Layer *layer, const Segment *segment) {
    const Context *c = w->context;
    const Step *step = c->step;
    int own = step->positions ? 1 : step->tokens;
    int64_t taken = 0;
    for (int token = 0; token < step->tokens; token += own)
        taken = attend_text(w, layer, memory_of(c, segment, token), token, own, taken);
}

/* What all heads of a token have mixed, as the output projection's input. */
static void join_heads(Worker *w, const Layer *layer, Input *in, int token) {
    const Context *c = w->context;
    const Model *m = &c->model;
    AttentionPlan plan = plan_of(c, layer, token);
    int64_t step = (int64_t)c->step->tokens * m->heads * (c->width + 2);
    for (int head = 0; head < m->heads; head++) {
        const float *part = c->parts + ((int64_t)token * m->heads + head) * (c->width + 2);
        float *to = in->rows + token * in->ld + head * m->head_dim;
        float most = layer->sinks ? layer->sinks[head] : NEVER, total = 0;
        for (int s = 0; s < plan.splits; s++) most = fmaxf(most, part[s * step + c->width]);
        if (layer->sinks) total = expf(layer->sinks[head] - most);
        memset(to, 0, (size_t)m->head_dim * sizeof *to);
        for (int s = 0; s < plan.splits; s++) {
            const float *p = part + s * step;
            if (p[c->width + 1] == 0) continue; /* it has seen no key */
            float factor = expf(p[c->width] - most);
            total += factor * p[c->width + 1];
            for (int d = 0; d < m->head_dim; d++) to[d] += factor * p[d];
        }
        for (int d = 0; d < m->head_dim; d++) to[d] /= total;
        ask_onward(&w->onward);
    }
    if (is_packed(&layer->o)) quantise(in, token, 0, in->groups);
    ask_onward(&w->onward);
}

static Products attention_products(const Worker *w, const Layer *layer) {
    const Context *c = w->context;
    const Input *in = &w->rows->attention_in;
    return (Products){{{&layer->q, in, c->shared.q, c->ld_q},
                       {&layer->k, in, c->shared.k, c->ld_kv},
                       {&layer->v, in, c->v, c->ld_kv}},
                      3};
}

/* Leaves what attention adds to the residual stream in the shared delta. */
static void attention(Worker *w, const Layer *layer, const Segment *segment) {
    Context *c = w->context;
    Rows *rows = w->rows;
    int64_t first, last;
    Products in = attention_products(w, layer);
    Product out = {&layer->o, &rows->output_in, c->shared.delta, c->ld_hidden};
    if (is_single(c)) ask_for_memory(w, layer, segment);
    compute(w, in.products, in.count, beginning(w, &out, 1));
    together(w);
    if (is_single(c))
        take_heads(w, layer);
    else
        finish_heads(w, layer, segment);
    attend_all(w, layer, segment);
    together(w);
    last = own_tokens(w, c->step->tokens, &first);
    for (int64_t t = first; t < last; t++) join_heads(w, layer, &rows->output_in, (int)t);
    rows_together(w);
    compute(w, &out, 1, beginning_of_network(w, layer));
    together(w);
}

#endif
