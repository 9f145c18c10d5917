/* The memory of a decoder, sized for the largest call: activations, scores, routing tables. Called once, by llm_new. */
#ifndef LLM_CPU_RUNTIME_BUFFERS_H
#define LLM_CPU_RUNTIME_BUFFERS_H

#include "context.h"

static void *zeros(Context *c, int64_t bytes) { return arena_zeros(&c->arena, bytes); }

static float *floats(Context *c, int64_t count) { return zeros(c, count * 4); }

/* A matrix input of up to `columns` columns and `slots` tokens, padded to whole tiles. */
static Input new_input(Context *c, int slots, int columns) {
    int64_t groups = (columns + GROUP - 1) / GROUP, padded = slots / TILE * TILE;
    if (slots % TILE) padded += tile_width(slots % TILE, 0);
    Input in = {.ld = round_up(columns, 16)};
    in.rows = floats(c, padded * in.ld);
    in.codes = zeros(c, padded * groups * INPUT_CODES * (int64_t)sizeof(Code));
    in.scale = floats(c, padded * groups);
    in.total = floats(c, padded * groups);
    in.shift = zeros(c, padded * groups * 4);
    return in;
}

static void set_shapes(const Model *m, Activations *rows, int tokens) {
    set_shape(&rows->attention_in, tokens, m->hidden);
    set_shape(&rows->second_in, tokens, m->hidden);
    if (rows->laurel_in.rows) set_shape(&rows->laurel_in, tokens, rows->laurel_in.columns);
}

/* The greatest sizes over all layers. */
typedef struct {
    int inner, edits, rank, gated_attention;
    int queries, keys_and_values, found; /* of all heads of a token: queries, keys or values, and mixed values */
    int compressed, absorbed;            /* of latent attention: a compressed query, and all queries for latents */
    int head, group;                     /* the size of a key or value, and the queries of a kv head */
    int64_t parts;                       /* mixed values of a token with greatest scores and sums of exponentials */
    int experts, chosen, expert_size, latent; /* 0 in a model without experts; latent: also where they read the input */
    int projected, channels; /* 0 in a model without recurrent layers */
    int decays, strengths, gate_rank, decay_rank, head_values; /* 0 in a model that has only other recurrent layers */
    int both;                            /* whether a layer has a recurrence beside attention */
} LayerSizes;

static Activations new_activations(Context *c, int tokens, LayerSizes sizes) {
    const Model *m = &c->model;
    Activations rows = {.x = floats(c, tokens * c->ld_x), .delta = floats(c, tokens * c->ld_hidden)};
    rows.q = floats(c, tokens * c->ld_q), rows.k = floats(c, tokens * c->ld_kv);
    rows.attention_in = new_input(c, tokens, m->hidden), rows.second_in = new_input(c, tokens, m->hidden);
    rows.output_in = new_input(c, tokens, sizes.found);
    if (m->streams > 1) rows.predicted = floats(c, tokens * c->ld_hidden);
    if (sizes.compressed) rows.query_in = new_input(c, tokens, sizes.compressed);
    if (sizes.rank) {
        rows.laurel_in = new_input(c, tokens, sizes.rank);
        set_shape(&rows.laurel_in, tokens, sizes.rank);
    }
    set_shapes(m, &rows, tokens);
    return rows;
}

static void raise_to(int *greatest, int size) { *greatest = size > *greatest ? size : *greatest; }

static LayerSizes greatest_sizes(const Model *m, const Layer *layers) {
    LayerSizes s = {.inner = m->per_layer.size};
    for (int i = 0; i < m->layers; i++) {
        const Layer *l = layers + i;
        const Experts *e = &l->experts;
        const Latent *latent = &l->latent;
        int values = l->value_dim > l->key_dim ? l->value_dim : l->key_dim;
        const RecurrentMixer *r = &l->recurrence;
        int64_t parts = l->heads * (round_up(l->value_dim, LANES) + 2);
        if (parts > s.parts) s.parts = parts;
        if (r->kind) {
            raise_to(&s.projected, r->in_proj.rows);
            raise_to(&s.channels, r->channels);
            raise_to(&s.decays, r->decay.rows * r->decay.count);
            raise_to(&s.strengths, r->strength.rows * r->strength.count);
            raise_to(&s.gate_rank, r->gate_left.rows);
            raise_to(&s.decay_rank, r->decay_left.rows);
            if (r->kind == DELTA) raise_to(&s.head_values, 3 * r->key_dim);
            raise_to(&s.found, r->out_proj.columns);
            if (has_attention(l)) s.both = 1;
        }
        if (latent->rank) {
            raise_to(&s.queries, l->q.rows);
            raise_to(&s.queries, latent->query.rows);
            raise_to(&s.compressed, latent->query.columns);
            raise_to(&s.absorbed, l->heads * l->key_dim);
            raise_to(&s.keys_and_values, l->key_dim);
            raise_to(&s.found, l->heads * latent->value_dim);
        } else {
            raise_to(&s.queries, l->heads * values);
            raise_to(&s.keys_and_values, l->kv_heads * values);
            raise_to(&s.found, l->heads * l->value_dim);
        }
        raise_to(&s.head, values);
        if (l->kv_heads) raise_to(&s.group, l->heads / l->kv_heads);
        raise_to(&s.inner, l->inner);
        raise_to(&s.edits, l->edits);
        raise_to(&s.rank, l->laurel_left.rows);
        if (l->attention_gate.data) s.gated_attention = 1;
        if (e->count == 0) continue;
        raise_to(&s.experts, e->count);
        raise_to(&s.chosen, e->chosen);
        raise_to(&s.expert_size, e->size);
        raise_to(&s.latent, e->latent_in.rows);
        raise_to(&s.inner, e->shared);
    }
    return s;
}

static void allocate_layer_buffers(Context *c, LayerSizes sizes) {
    const Model *m = &c->model;
    int n = m->capacity;
    c->width = (int)round_up(sizes.head, LANES);
    c->most_splits = c->threads;
    c->ld_hidden = round_up(m->hidden, 16), c->ld_x = round_up((int64_t)m->streams * m->hidden, 16);
    c->ld_q = round_up(sizes.queries, 16), c->ld_kv = round_up(sizes.keys_and_values, 16);
    c->ld_inner = round_up(sizes.inner, 16);
    c->shared = new_activations(c, n, sizes);
    c->v = floats(c, n * c->ld_kv);
    if (sizes.gated_attention) c->attention_gates = floats(c, n * c->ld_q);
    c->gate = floats(c, n * c->ld_inner), c->up = floats(c, n * c->ld_inner);
    if (sizes.edits) c->edited = floats(c, (int64_t)n * sizes.edits);
    if (m->per_layer.size) {
        c->ld_vectors = round_up((int64_t)m->layers * m->per_layer.size, 16);
        c->vectors = floats(c, n * c->ld_vectors), c->table_rows = floats(c, n * c->ld_vectors);
    }
    if (sizes.absorbed) {
        c->ld_absorbed = c->ld_mixed = round_up(sizes.absorbed, 16), c->ld_values = round_up(sizes.found, 16);
        c->latent_queries = floats(c, n * c->ld_q), c->absorbed = floats(c, n * c->ld_absorbed);
        c->mixed = floats(c, n * c->ld_mixed), c->head_values = floats(c, n * c->ld_values);
    }
    if (sizes.projected) {
        c->ld_projected = round_up(sizes.projected, 16), c->ld_convolved = round_up(sizes.channels, 16);
        c->ld_output = round_up(sizes.found, 16);
        c->ld_decays = round_up(sizes.decays, 16), c->ld_strengths = round_up(sizes.strengths, 16);
        c->projected = floats(c, n * c->ld_projected), c->convolved = floats(c, n * c->ld_convolved);
        if (sizes.both) c->beside = floats(c, n * c->ld_hidden);
    }
    if (sizes.decays) {
        c->output_gates = floats(c, n * c->ld_output);
        c->decays = floats(c, n * c->ld_decays), c->strengths = floats(c, n * c->ld_strengths);
        if (sizes.gate_rank) c->gate_in = new_input(c, n, sizes.gate_rank);
        if (sizes.decay_rank) c->decay_in = new_input(c, n, sizes.decay_rank);
    }
    if (sizes.rank) {
        c->ld_rank = round_up(sizes.rank, 16);
        c->laurel_left = floats(c, n * c->ld_rank), c->laurel_out = floats(c, n * c->ld_hidden);
    }
    c->inner_in = new_input(c, n, sizes.inner);
    /* Keys are only split for at most one tile of tokens of a text, or for single tokens of several. */
    int64_t split = (n < MOST_TEXTS ? n : MOST_TEXTS) * (int64_t)c->most_splits;
    c->parts = floats(c, (split > n ? split : n) * sizes.parts);
    c->text_segments = zeros(c, (int64_t)MOST_TEXTS * m->layers * (int64_t)sizeof(Segment));
}

static void allocate_expert_buffers(Context *c, LayerSizes sizes) {
    int64_t n = c->model.capacity, pairs = n * sizes.chosen;
    int64_t slots = 2 * pairs; /* a tile may be twice as wide as it has tokens */
    c->most_pairs = (int)pairs;
    c->routed = floats(c, n * sizes.experts), c->pair_weights = floats(c, pairs);
    c->ld_pair = round_up(2 * (int64_t)sizes.expert_size, 16);
    int read = sizes.latent > c->model.hidden ? sizes.latent : c->model.hidden;
    c->ld_pair_out = round_up(read, 16);
    c->pair_hidden = floats(c, pairs * c->ld_pair), c->pair_out = floats(c, pairs * c->ld_pair_out);
    c->shared_out = floats(c, n * c->ld_hidden), c->shared_factor = floats(c, n);
    c->chosen = zeros(c, pairs * 4), c->pair_of = zeros(c, (pairs + sizes.experts) * 4);
    c->first_pair = zeros(c, ((int64_t)sizes.experts + 1) * 4), c->pair_token = zeros(c, pairs * 4);
    c->first_slot = zeros(c, (int64_t)sizes.experts * 8);
    c->pair_in = new_input(c, (int)slots, read), c->pair_inner = new_input(c, (int)slots, sizes.expert_size);
    if (sizes.latent) {
        c->ld_latent = round_up(sizes.latent, 16);
        c->latents = floats(c, n * c->ld_latent), c->latent_sum = new_input(c, (int)n, sizes.latent);
    }
}

static void allocate_worker_buffers(Context *c, Worker *w, LayerSizes sizes) {
    int64_t queries = MOST_QUERIES > sizes.group ? MOST_QUERIES : sizes.group;
    w->own = new_activations(c, 1, sizes);
    if (sizes.head_values) w->scratch_values = floats(c, sizes.head_values);
    Scratch *s = &w->scratch;
    int64_t block = (int64_t)c->width * KEY_BLOCK, unpacked = c->model.cache_format == INT8_ROWS ? block : 0;
    float *p = floats(c, 2 * queries * c->width + 2 * block + 2 * unpacked + queries * KEY_BLOCK + 2 * queries +
                      3 * (int64_t)sizes.experts);
    if (!p) return;
    s->queries = p, p += queries * c->width;
    s->mixed = p, p += queries * c->width;
    s->keys = p, p += block;
    s->values = p, p += block;
    s->unpacked_keys = p, p += unpacked;
    s->unpacked_values = p, p += unpacked;
    s->scores = p, p += queries * KEY_BLOCK;
    s->most = p, p += queries;
    s->sums = p, p += queries;
    w->scores = p;
}

/* Allocate all buffers; without memory, the arena has `failed`. */
static void allocate_buffers(Context *c) {
    LayerSizes sizes = greatest_sizes(&c->model, c->layers);
    allocate_layer_buffers(c, sizes);
    if (sizes.experts) allocate_expert_buffers(c, sizes);
    for (int i = 0; i < c->threads; i++) allocate_worker_buffers(c, &c->workers[i], sizes);
}

#endif
