/* The attention of one layer, from the normed residual stream to its output projection: what `Attention` of
   model/attention/attention.py computes. Called by layers/decoder_layer.h. */
#ifndef LLM_CPU_ATTENTION_ATTENTION_H
#define LLM_CPU_ATTENTION_ATTENTION_H

#include "attend.h"
#include "heads.h"
#include "work_split.h"
#include "../layers/feed_forward.h"
#include "../layers/laurel.h"
#include "../runtime/products.h"

/* Prepare the heads of a single token in the worker that attends with them; the worker whose keys include the new
   position also writes the new key and value. */
static void prepare_item(Worker *w, const Layer *layer, const Segment *segment, const AttentionItem *item) {
    int group = layer->heads / layer->kv_heads;
    for (int head = item->head * group; head < (item->head + 1) * group; head++) {
        prepare_query(w, layer, head, 0);
        prefetch_some(&w->cursor);
    }
    if (!layer->k.data || item->to <= item->start) return;
    prepare_key_and_value(w, layer, segment, item->head, 0);
    prefetch_some(&w->cursor);
}

/* A head's value in the parts that are merged, padded to a vector. */
static int value_width(const Layer *layer) { return (int)round_up(layer->value_dim, LANES); }

/* `taken`: work items already assigned, for other sequences; returns the new count. */
static int64_t attend_sequence(Worker *w, const Layer *layer, const Segment *segment, int first_token, int own,
                               int64_t taken) {
    Context *c = w->context;
    const Model *m = &c->model;
    AttentionPlan plan = plan_of(c, layer, first_token);
    int tokens = c->step->tokens, group = layer->heads / layer->kv_heads, width = value_width(layer);
    int latent = layer->latent.rank > 0;
    const float *queries = latent ? c->absorbed : w->rows->q;
    int64_t ld = latent ? c->ld_absorbed : c->ld_q;
    int items = layer->kv_heads * plan.tiles * plan.splits, turn = (int)(taken % c->threads);
    for (int number = (w->number - turn + c->threads) % c->threads; number < items; number += c->threads) {
        AttentionItem item = attention_item(c, layer, plan, first_token, own, number);
        int64_t next = 0;
        if (number + c->threads < items) {
            AttentionItem then = attention_item(c, layer, plan, first_token, own, number + c->threads);
            int64_t heads = cache_head(layer, then.head) - cache_head(layer, item.head);
            next = heads * segment->size + then.from - item.from;
        }
        if (is_single_token(c) && !latent) prepare_item(w, layer, segment, &item);
        attend(m, layer, segment, item.head, queries + item.token * ld + item.head * group * layer->key_dim, ld,
               item.start, item.count, item.from, item.to, next, &w->cursor, &w->scratch);
        prefetch_some(&w->cursor);
        for (int r = 0; r < item.count * group; r++) {
            int64_t row = (int64_t)(item.token + r / group) * layer->heads + item.head * group + r % group;
            float *to_part = c->parts + ((int64_t)item.split * tokens * layer->heads + row) * (width + 2);
            memcpy(to_part, w->scratch.mixed + (int64_t)r * width, (size_t)width * sizeof(float));
            to_part[width] = w->scratch.most[r];
            to_part[width + 1] = w->scratch.sums[r];
        }
    }
    return taken + items;
}

/* Prefetch the keys and values that a worker reads first for a single token, while its queries are still being
   computed. */
static void prefetch_cache(const Worker *w, const Layer *layer, const Segment *segment) {
    const Context *c = w->context;
    AttentionPlan plan = plan_of(c, layer, 0);
    if (w->number >= layer->kv_heads * plan.splits) return;
    AttentionItem item = attention_item(c, layer, plan, 0, 1, w->number);
    int format = c->model.cache_format;
    int64_t key = cache_row(format, layer->key_dim), of_value = cache_row(format, layer->value_dim);
    int64_t at = cache_offset(segment, item.head, item.from), count = item.to - item.from;
    int64_t keys = count * key, values = count * of_value;
    if (keys > PREFETCHED_FIRST) keys = PREFETCHED_FIRST;
    if (values > PREFETCHED_FIRST) values = PREFETCHED_FIRST;
    prefetch_bytes((const char *)segment->keys + at * key, keys);
    prefetch_bytes((const char *)segment->values + at * of_value, values);
}

static void attend_all(Worker *w, const Layer *layer, const Segment *segment) {
    const Context *c = w->context;
    const Pass *step = c->step;
    int own = step->positions ? 1 : step->tokens;
    int64_t taken = 0;
    for (int token = 0; token < step->tokens; token += own)
        taken = attend_sequence(w, layer, cache_of(c, segment, token), token, own, taken);
}

static float gate_factor(const Model *m, float gate) {
    /* log(1 + e^gate) is written so that e^gate does not overflow. */
    return m->gate_softplus ? fmaxf(gate, 0) + log1pf(expf(-fabsf(gate))) : 1 / (1 + expf(-gate));
}

/* Multiply the `size` values that a head found by the activations of its gates. */
static void gate_head(const Context *c, float *values, int size, int head, int token) {
    const Model *m = &c->model;
    const float *gates = c->attention_gates + token * c->ld_q;
    if (m->gate_per_head) {
        float factor = gate_factor(m, gates[head]);
        for (int d = 0; d < size; d++) values[d] *= factor;
        return;
    }
    gates += head * size;
    int d = 0;
    for (; !m->gate_softplus && d + LANES <= size; d += LANES)
        store(values + d, load(values + d) * vsigmoid(load(gates + d)));
    for (; d < size; d++) values[d] *= gate_factor(m, gates[d]);
}

/* Merge the parts of a head's keys. */
static void merge_head(const Context *c, const Layer *layer, int head, int token, float *to) {
    int splits = plan_of(c, layer, token).splits, size = layer->value_dim, width = value_width(layer);
    int64_t step = (int64_t)c->step->tokens * layer->heads * (width + 2);
    const float *part = c->parts + ((int64_t)token * layer->heads + head) * (width + 2);
    float most = layer->sinks ? layer->sinks[head] : MASKED, total = 0;
    for (int s = 0; s < splits; s++) most = fmaxf(most, part[s * step + width]);
    if (layer->sinks) total = expf(layer->sinks[head] - most);
    memset(to, 0, (size_t)size * sizeof *to);
    for (int s = 0; s < splits; s++) {
        const float *p = part + s * step;
        if (p[width + 1] == 0) continue; /* this part contains no visible key */
        float factor = expf(p[width] - most);
        total += factor * p[width + 1];
        for (int d = 0; d < size; d++) to[d] += factor * p[d];
    }
    for (int d = 0; d < size; d++) to[d] /= total;
}

/* What all heads found for a token, as the output projection's input. */
static void merge_heads(Worker *w, const Layer *layer, Input *in, int token) {
    const Context *c = w->context;
    for (int head = 0; head < layer->heads; head++) {
        float *to = in->rows + token * in->ld + head * layer->value_dim;
        merge_head(c, layer, head, token, to);
        if (layer->attention_gate.data) gate_head(c, to, layer->value_dim, head, token);
        prefetch_some(&w->cursor);
    }
    float *row = in->rows + token * in->ld;
    if (layer->attention_inner.kind != NO_NORM) normalize(&layer->attention_inner, row, row, in->columns, 0);
    if (is_packed(&layer->o)) quantize(in, token, 0, in->groups);
    prefetch_some(&w->cursor);
}

/* The products with the input of attention; returns how many there are. */
static int attention_products(const Worker *w, const Layer *layer, Product *all) {
    const Context *c = w->context;
    const Input *in = &w->rows->attention_in;
    int count = 0;
    all[count++] = (Product){&layer->q, in, c->shared.q, c->ld_q};
    if (layer->k.data) all[count++] = (Product){&layer->k, in, c->shared.k, c->ld_kv};
    if (layer->v.data) all[count++] = (Product){&layer->v, in, c->v, c->ld_kv};
    if (layer->attention_gate.data)
        all[count++] = (Product){&layer->attention_gate, in, c->attention_gates, c->ld_q};
    if (layer->laurel_left.data) all[count++] = (Product){&layer->laurel_left, in, c->laurel_left, c->ld_rank};
    return count;
}

/* The address of the first weights a worker reads for attention. */
static const char *attention_address(const Worker *w, const Layer *layer) {
    Product all[MOST_PRODUCTS];
    int count = attention_products(w, layer, all);
    return first_address(w, all, count);
}

/* Leaves the attention output in the shared `delta`. `next`: the weights that are read afterwards. */
static void attention(Worker *w, const Layer *layer, const Segment *segment, const char *next) {
    Context *c = w->context;
    Activations *rows = w->rows;
    int64_t first, last;
    Product in[MOST_PRODUCTS];
    int count = attention_products(w, layer, in);
    Input found = rows->output_in;
    set_shape(&found, c->step->tokens, layer->heads * layer->value_dim);
    Product out[] = {{&layer->o, &found, c->shared.delta, c->ld_hidden},
                     {&layer->laurel_right, &rows->laurel_in, c->laurel_out, c->ld_hidden}};
    int outputs = layer->laurel_right.data ? 2 : 1;
    if (is_single_token(c)) prefetch_cache(w, layer, segment);
    multiply_products(w, in, count, first_address(w, out, outputs));
    sync_threads(w);
    if (is_single_token(c))
        copy_heads(w, layer);
    else
        prepare_heads(w, layer, segment);
    attend_all(w, layer, segment);
    sync_threads(w);
    last = own_tokens(w, c->step->tokens, &first);
    for (int64_t t = first; t < last; t++) {
        merge_heads(w, layer, &found, (int)t);
        if (layer->laurel_right.data) laurel_into(w, layer, &rows->laurel_in, (int)t);
    }
    sync_rows(w);
    multiply_products(w, out, outputs, next);
    sync_threads(w);
}

#endif
