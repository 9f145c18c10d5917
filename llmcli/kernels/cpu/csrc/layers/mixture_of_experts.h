/* A mixture of experts: routing, the chosen experts' feed-forward networks, and their weighted sum; what
   `MixtureOfExperts` of model/mixture_of_experts.py computes. Called by decoder_layer.h. */
#ifndef LLM_CPU_LAYERS_MIXTURE_OF_EXPERTS_H
#define LLM_CPU_LAYERS_MIXTURE_OF_EXPERTS_H

#include "activation.h"
#include "feed_forward.h"
#include "moe_router.h"
#include "residual.h"
#include "../runtime/products.h"

/* The part of an input that belongs to one expert; its tokens have separate tiles. */
static Input slots_of(const Input *all, int64_t slot, int tokens, int columns) {
    Input in = *all;
    set_shape(&in, tokens, columns);
    in.rows += slot * in.ld;
    in.codes += slot * in.groups * INPUT_CODES;
    in.scale += slot * in.groups;
    in.total += slot * in.groups;
    in.shift += slot * in.groups;
    return in;
}

/* Sort the pairs of token and expert by expert; each expert's pairs begin at a new slot. */
static void sort_pairs(Context *c, const Experts *experts) {
    int pairs = c->step->tokens * experts->chosen, n = experts->count;
    int64_t slot = 0;
    memset(c->first_pair, 0, (size_t)(n + 1) * sizeof *c->first_pair);
    for (int p = 0; p < pairs; p++) c->first_pair[c->chosen[p] + 1]++;
    for (int e = 0; e < n; e++) {
        int count = c->first_pair[e + 1];
        c->first_slot[e] = slot;
        slot += count / TILE * TILE + (count % TILE ? tile_width(count % TILE, 0) : 0);
        c->first_pair[e + 1] += c->first_pair[e];
    }
    int32_t *next = c->pair_of + c->most_pairs;
    memcpy(next, c->first_pair, (size_t)n * sizeof *next);
    for (int p = 0; p < pairs; p++) {
        int at = next[c->chosen[p]]++;
        c->pair_of[p] = at;
        c->pair_token[at] = p;
    }
}

/* Each worker's share of the products of one matrix of all experts with tokens. */
static void multiply_experts(const Worker *w, const Experts *experts, const Matrix *m, const Input *in, float *out,
                             int64_t ld) {
    const Context *c = w->context;
    int active = 0, blocks = row_blocks(m);
    for (int e = 0; e < experts->count; e++) active += c->first_pair[e + 1] > c->first_pair[e];
    int64_t first, last = share(w, (int64_t)active * blocks, &first), at = 0;
    for (int e = 0; e < experts->count; e++) {
        int count = c->first_pair[e + 1] - c->first_pair[e];
        if (count == 0) continue;
        int64_t from = first > at ? first - at : 0, to = last - at < blocks ? last - at : blocks;
        if (from < to) {
            Input own = slots_of(in, c->first_slot[e], count, m->columns);
            multiply(m, e, &own, out + c->first_pair[e] * ld, ld, (int)from, (int)to, NULL);
        }
        at += blocks;
    }
}

/* Every worker routes its share of the tokens; leaves `chosen`, `pair_weights` and the pairs sorted by expert. */
static void route_tokens(Worker *w, const Experts *experts, const Input *in) {
    Context *c = w->context;
    Product route[3] = {{&experts->router, in, c->routed, experts->count}};
    int count = 1;
    if (experts->shared_gate.data) route[count++] = (Product){&experts->shared_gate, in, c->shared_factor, 1};
    if (experts->latent_in.data) route[count++] = (Product){&experts->latent_in, in, c->latents, c->ld_latent};
    multiply_products(w, route, count, NULL);
    sync_threads(w);
    int64_t first, last = share(w, c->step->tokens, &first);
    for (int64_t t = first; t < last; t++)
        route_token(experts, c->routed + t * experts->count, c->chosen + t * experts->chosen,
                    c->pair_weights + t * experts->chosen, w->scores);
    sync_threads(w);
    if (w->number == 0) sort_pairs(c, experts);
    sync_threads(w);
}

/* The inputs of the experts: pairs `first` to `last` of those sorted by expert. */
static void gather_expert_inputs(const Worker *w, const Experts *experts, const Input *in, int64_t first,
                                 int64_t last) {
    Context *c = w->context;
    int columns = experts->gate_up.columns;
    for (int64_t pair = first; pair < last; pair++) {
        int p = c->pair_token[pair], token = p / experts->chosen, e = c->chosen[p];
        Input own = slots_of(&c->pair_in, c->first_slot[e], c->first_pair[e + 1] - c->first_pair[e], columns);
        int place = (int)pair - c->first_pair[e];
        float *to = own.rows + place * own.ld, factor = experts->scales_input ? c->pair_weights[p] : 1;
        if (experts->own_norms)
            normalize(&experts->input_norm, w->rows->x + token * c->ld_x, to, columns, 0);
        else
            memcpy(to, experts->latent_in.data ? c->latents + token * c->ld_latent : in->rows + token * in->ld,
                   (size_t)columns * sizeof *to);
        if (factor != 1)
            for (int i = 0; i < columns; i++) to[i] *= factor;
        if (is_packed(&experts->gate_up)) quantize(&own, place, 0, own.groups);
    }
}

/* The activation of the experts' gates, times their up projections: pairs `first` to `last`. */
static void activate_experts(Context *c, const Experts *experts, int64_t first, int64_t last) {
    for (int64_t pair = first; pair < last; pair++) {
        int e = c->chosen[c->pair_token[pair]], place = (int)pair - c->first_pair[e];
        Input own = slots_of(&c->pair_inner, c->first_slot[e], c->first_pair[e + 1] - c->first_pair[e], experts->size);
        const float *gate = c->pair_hidden + pair * c->ld_pair;
        const float *up = experts->gate_up.rows > experts->size ? gate + experts->size : NULL;
        if (experts->clamped)
            activate_clamped(experts->alpha, experts->limit, gate, up, own.rows + place * own.ld, experts->size);
        else
            activate((Activation){.kind = c->model.activation}, gate, up, own.rows + place * own.ld, experts->size);
        if (is_packed(&experts->down)) quantize(&own, place, 0, own.groups);
    }
}

/* The weighted sum of what its experts computed for a token. */
static void combine_experts(const Context *c, const Experts *experts, int64_t t, float *to) {
    int size = experts->down.rows;
    memset(to, 0, (size_t)size * sizeof *to);
    for (int i = 0; i < experts->chosen; i++) {
        int64_t p = t * experts->chosen + i;
        const float *from = c->pair_out + c->pair_of[p] * c->ld_pair_out;
        float weight = experts->scales_input ? 1 : c->pair_weights[p];
        for (int j = 0; j < size; j++) to[j] += weight * from[j];
    }
    if (experts->own_norms) normalize(&experts->output_norm, to, to, size, 0);
}

/* Project the sums of the experts of all tokens from their latent space to `out`. */
static void project_latent_sums(Worker *w, const Experts *experts, float *out, const char *next) {
    Context *c = w->context;
    int tokens = c->step->tokens;
    Input sums = c->latent_sum;
    set_shape(&sums, tokens, experts->latent_out.columns);
    int64_t first, last = share(w, tokens, &first);
    for (int64_t t = first; t < last; t++) {
        combine_experts(c, experts, t, sums.rows + t * sums.ld);
        if (is_packed(&experts->latent_out)) quantize(&sums, (int)t, 0, sums.groups);
    }
    sync_threads(w);
    Product project = {&experts->latent_out, &sums, out, c->ld_hidden};
    multiply_products(w, &project, 1, next);
    sync_threads(w);
}

/* Add what the shared expert computed for a token. */
static void add_shared_expert(const Context *c, const Experts *experts, int64_t t, float *to) {
    int hidden = c->model.hidden;
    float gate = 1, *shared = c->shared_out + t * c->ld_hidden;
    if (experts->own_norms) normalize(&experts->shared_output_norm, shared, shared, hidden, 0);
    if (experts->shared_gate.data) gate = 1 / (1 + expf(-c->shared_factor[t]));
    gate *= experts->shared_scale;
    for (int j = 0; j < hidden; j++) to[j] += gate * shared[j];
}

/* From `in` to `out`, for all tokens; `next`: the weights that are read afterwards. */
static void mixture_of_experts(Worker *w, const Layer *layer, const Input *in, float *out, const char *next) {
    Context *c = w->context;
    const Experts *experts = &layer->experts;
    int tokens = c->step->tokens, pairs = tokens * experts->chosen;
    route_tokens(w, experts, in);
    int64_t first, last = share(w, pairs, &first);
    gather_expert_inputs(w, experts, in, first, last);
    const Input *shared_in = in;
    if (experts->own_norms) {
        /* Attention's input is not needed any more. */
        int64_t own, end = own_tokens(w, tokens, &own);
        shared_in = &w->rows->attention_in;
        for (int64_t t = own; t < end; t++)
            norm_into(w, &experts->shared_norm, &w->rows->attention_in, (int)t, is_packed(&layer->up));
    }
    sync_threads(w);
    multiply_experts(w, experts, &experts->gate_up, &c->pair_in, c->pair_hidden, c->ld_pair);
    sync_threads(w);
    activate_experts(c, experts, first, last);
    sync_threads(w);
    multiply_experts(w, experts, &experts->down, &c->pair_inner, c->pair_out, c->ld_pair_out);
    if (experts->shared)
        feed_forward(w, layer, experts->shared, shared_in, c->shared_out, next);
    else
        sync_threads(w);
    if (experts->latent_out.data) project_latent_sums(w, experts, out, next);
    last = share(w, tokens, &first);
    for (int64_t t = first; t < last; t++) {
        if (!experts->latent_out.data) combine_experts(c, experts, t, out + t * c->ld_hidden);
        if (experts->shared) add_shared_expert(c, experts, t, out + t * c->ld_hidden);
    }
    sync_threads(w);
}

#endif
