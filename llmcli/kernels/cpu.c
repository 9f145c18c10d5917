/* One step of a decoder-only transformer on a CPU: token ids in, logits out, keys and values into the caller's cache.

   Computes what `Transformer.forward` of model/transformer.py computes, in float32 but for weights of 4 and 8 bits, which
   are multiplied with activations rounded to 16 bits by groups of 32. All threads run `run` together; what one of them
   must have finished before another goes on is marked by `together`. There is no state but the Context. */
#ifdef __linux__
#define _GNU_SOURCE /* where threads run */
#endif
#include <stdlib.h>

#include "cpu_attention.h"
#include "cpu_experts.h"
#include "cpu_matmul.h"
#include "cpu_memory.h"
#include "cpu_pack.h"
#include "cpu_pool.h"
#include "cpu_rows.h"

#define EXPORT __attribute__((visibility("default")))

typedef struct Context Context;

typedef struct {
    Context *context;
    int number;
    pthread_t thread;
    int core; /* that it has been put on, or -1 */
    Scratch scratch;
    float *scores; /* of experts, three times their number */
} Worker;

struct Context {
    Model model;
    Layer *layers;
    Barrier barrier;
    Worker *workers;
    int threads, started, leaving;
    Cores cores;
    int32_t *cpus;
    int first_core; /* of the calling thread, or -1 where threads are left alone */
    const Step *step;
    int width;       /* of a head, rounded up to a vector */
    int most_splits; /* into how many parts a head's keys may be split */
    /* Of all tokens of a call. */
    float *x, *delta, *q, *k, *v, *gate, *up, *edited;
    int64_t ld_hidden, ld_q, ld_kv, ld_inner;
    Input attention_in, output_in, inner_in, second_in;
    float *parts; /* (splits, tokens, heads, width + 2): mixtures, then greatest score and sum of exponentials */
    /* Of experts: pairs are a token with an expert it is sent to, sorted by expert. */
    float *routed, *pair_weights, *pair_hidden, *pair_out, *shared_out, *shared_factor;
    int32_t *chosen, *pair_of, *first_pair, *pair_token;
    int64_t *first_slot;
    Input pair_in, pair_inner;
    int64_t ld_pair;
    int most_pairs;
    Memory memory[64];
    int allocations, failed;
};

/* Zeros, on a line of the processor's cache. */
static void *room(Context *c, int64_t bytes) {
    if (c->failed || c->allocations == 64 || get_zeros(c->memory + c->allocations, bytes)) {
        c->failed = 1;
        return NULL;
    }
    return c->memory[c->allocations++].data;
}

static float *floats(Context *c, int64_t count) { return room(c, count * 4); }

/* Room for tokens of up to so many columns, in `slots` of which none is lost to tiles of a width that is no power of 2. */
static Input input(Context *c, int slots, int columns) {
    int64_t groups = (columns + GROUP - 1) / GROUP, padded = round_up(slots, TILE);
    Input in = {.ld = round_up(columns, 16)};
    in.rows = floats(c, padded * in.ld);
    in.codes = room(c, padded * groups * CODES);
    in.scale = floats(c, padded * groups);
    in.total = floats(c, padded * groups);
    in.shift = room(c, padded * groups * 4);
    return in;
}

static void begin_input(Input *in, int tokens, int columns) {
    in->tokens = tokens;
    in->columns = columns;
    in->groups = (columns + GROUP - 1) / GROUP;
}

static void together(Context *c) { barrier_wait(&c->barrier, PATIENCE); }

/* The share of `total` things that falls to a worker: from *first to the result. */
static int64_t share(const Worker *w, int64_t total, int64_t *first) {
    *first = total * w->number / w->context->threads;
    return total * (w->number + 1) / w->context->threads;
}

typedef struct {
    const Matrix *matrix;
    const Input *in;
    float *out;
    int64_t ld;
    int add;
} Product;

/* Each worker computes its share of the rows of all products taken together. */
static void compute(const Worker *w, const Product *products, int count) {
    int64_t total = 0, first, last, at = 0;
    for (int i = 0; i < count; i++) total += row_blocks(products[i].matrix);
    last = share(w, total, &first);
    for (int i = 0; i < count; i++) {
        const Product *p = products + i;
        int64_t blocks = row_blocks(p->matrix), from = first - at, to = last - at;
        if (from < 0) from = 0;
        if (to > blocks) to = blocks;
        if (from < to) multiply(p->matrix, 0, p->in, p->out, p->ld, p->add, (int)from, (int)to);
        at += blocks;
    }
}

/* Where in its text a token stands. */
static int64_t position_of(const Step *step, int token) {
    return step->positions ? step->positions[token] : step->start + token;
}

/* A layer's memory of the text that a token is of; `segment` is that of the first text. */
static const Segment *memory_of(const Context *c, const Segment *segment, int token) {
    return c->step->positions ? segment + (int64_t)token * c->model.layers : segment;
}

static int is_packed(const Matrix *m) { return m->format >= PACKED4; }

static void embed(Context *c, int token) {
    const Model *m = &c->model;
    float *x = c->x + token * c->ld_hidden;
    read_row(&m->embedding, c->step->ids[token], x);
    for (int i = 0; i < m->hidden; i++) x[i] *= m->embed_scale;
    if (m->positions.data) {
        float *added = c->delta + token * c->ld_hidden;
        read_row(&m->positions, (int)position_of(c->step, token), added);
        for (int i = 0; i < m->hidden; i++) x[i] += added[i];
    }
}

/* Put a token's normed residual stream into an input. */
static void enter(Context *c, const Norm *norm, Input *in, int token, int quantised) {
    float *to = in->rows + token * in->ld;
    normalise(norm, c->x + token * c->ld_hidden, to, c->model.hidden, 0);
    if (quantised) quantise(in, token, 0, in->groups);
}

/* Normalised heads of one kind of a token: queries or keys. */
static void finish_head(const Context *c, const Layer *layer, float *x, const Norm *norm, int head, int token,
                        int is_query) {
    const Model *m = &c->model;
    int64_t position = position_of(c->step, token);
    if (m->qk_norm != QK_WHOLE && m->clip > 0)
        for (int i = 0; i < m->head_dim; i++) x[i] = x[i] > m->clip ? m->clip : x[i] < -m->clip ? -m->clip : x[i];
    if (m->qk_norm == QK_HEAD || m->qk_norm == QK_EACH_HEAD) normalise(norm, x, x, m->head_dim, head);
    if (layer->rope >= 0) {
        const Rotation *r = c->step->rotations + layer->rope;
        rotate(x, r->cos + token * r->half, r->sin + token * r->half, r->half);
        Norm plain = {.kind = RMS_NORM, .eps = m->qk_eps};
        if (m->qk_norm == QK_ROTATED) normalise(&plain, x, x, m->head_dim, 0);
    }
    if (is_query && layer->scaling_interval > 0) {
        float steps = (float)((position + layer->scaling_offset) / layer->scaling_interval);
        float factor = 1 + layer->scaling_beta * log1pf(steps);
        for (int i = 0; i < m->head_dim; i++) x[i] *= factor;
    }
}

static void keep(const Context *c, void *where, const Segment *segment, const float *x, int head, int token) {
    const Model *m = &c->model;
    int64_t at = ((int64_t)head * segment->size + position_of(c->step, token) - segment->first) * m->head_dim;
    if (m->cache_format == FLOAT32) {
        memcpy((float *)where + at, x, (size_t)m->head_dim * sizeof *x);
    } else {
        uint16_t *to = (uint16_t *)where + at;
        for (int i = 0; i < m->head_dim; i++) to[i] = to_bf16(x[i]);
    }
}

static void clip(float *x, int n, float limit) {
    for (int i = 0; i < n; i++) x[i] = x[i] > limit ? limit : x[i] < -limit ? -limit : x[i];
}

/* Norms, rotation, and keys and values into the cache: each worker some heads of some tokens. */
static void finish_heads(const Worker *w, const Layer *layer, const Segment *segment) {
    Context *c = w->context;
    const Model *m = &c->model;
    int tokens = c->step->tokens, heads = m->heads + 2 * m->kv_heads;
    int64_t first, last;
    if (m->qk_norm == QK_WHOLE) {
        last = share(w, tokens, &first);
        for (int64_t t = first; t < last; t++) {
            float *q = c->q + t * c->ld_q, *k = c->k + t * c->ld_kv;
            normalise(&layer->q_norm, q, q, m->heads * m->head_dim, 0);
            normalise(&layer->k_norm, k, k, m->kv_heads * m->head_dim, 0);
            if (m->clip > 0) {
                clip(q, m->heads * m->head_dim, m->clip);
                clip(k, m->kv_heads * m->head_dim, m->clip);
            }
        }
        together(c);
    }
    last = share(w, (int64_t)tokens * heads, &first);
    for (int64_t i = first; i < last; i++) {
        int token = (int)(i / heads), head = (int)(i % heads);
        if (head < m->heads) {
            finish_head(c, layer, c->q + token * c->ld_q + head * m->head_dim, &layer->q_norm, head, token, 1);
        } else if ((head -= m->heads) < m->kv_heads) {
            float *k = c->k + token * c->ld_kv + head * m->head_dim;
            finish_head(c, layer, k, &layer->k_norm, head, token, 0);
            keep(c, memory_of(c, segment, token)->keys, memory_of(c, segment, token), k, head, token);
        } else {
            head -= m->kv_heads;
            float *v = c->v + token * c->ld_kv + head * m->head_dim;
            if (m->clip > 0) clip(v, m->head_dim, m->clip);
            keep(c, memory_of(c, segment, token)->values, memory_of(c, segment, token), v, head, token);
        }
    }
}

static int greatest_divisor(int a, int b) { return b ? greatest_divisor(b, a % b) : a; }

typedef struct {
    int tile, tiles, splits; /* tokens of a tile, tiles, and parts into which keys are split */
} AttentionPlan;

/* Heads and tiles of tokens are shared out; where these are few, keys are split too, so that all workers have as much. */
static AttentionPlan attention_plan(const Context *c, const Layer *layer, int64_t start, int tokens) {
    const Model *m = &c->model;
    int group = m->heads / m->kv_heads, tile = MOST_QUERIES / group;
    AttentionPlan plan = {.tile = tile < 1 ? 1 : tile > TILE ? TILE : tile, .splits = 1};
    plan.tiles = (tokens + plan.tile - 1) / plan.tile;
    int items = m->kv_heads * plan.tiles;
    int64_t keys = start + tokens - first_visible(layer, start);
    if (tokens <= TILE && items < 4 * c->threads) {
        plan.splits = c->threads / greatest_divisor(items, c->threads);
        if (plan.splits > keys / KEYS) plan.splits = (int)(keys / KEYS);
        if (plan.splits > c->most_splits) plan.splits = c->most_splits;
        if (plan.splits < 1) plan.splits = 1;
    }
    return plan;
}

/* A head, some tokens of a text, and some of the keys that they see. */
typedef struct {
    int split, head, token, count;
    int64_t start, from, to;
} AttentionItem;

static AttentionItem attention_item(const Context *c, const Layer *layer, AttentionPlan plan, int first_token, int own,
                                    int number) {
    int heads = c->model.kv_heads, place = number / plan.splits / heads * plan.tile;
    AttentionItem item = {.split = number % plan.splits, .head = number / plan.splits % heads};
    item.token = first_token + place;
    item.count = own - place < plan.tile ? own - place : plan.tile;
    item.start = position_of(c->step, item.token);
    int64_t first = first_visible(layer, item.start), keys = item.start + item.count - first;
    item.from = first + keys * item.split / plan.splits;
    item.to = first + keys * (item.split + 1) / plan.splits;
    return item;
}

/* The plan for the text that a token is of: the same as if that were alone, for sums depend on it in the last bit. */
static AttentionPlan plan_of(const Context *c, const Layer *layer, int token) {
    const Step *step = c->step;
    return step->positions ? attention_plan(c, layer, step->positions[token], 1)
                           : attention_plan(c, layer, step->start, step->tokens);
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
        attend(m, layer, segment, item.head, c->q + item.token * c->ld_q + item.head * group * m->head_dim, c->ld_q,
               item.start, item.count, item.from, item.to, next, &w->scratch);
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

static void attend_all(Worker *w, const Layer *layer, const Segment *segment) {
    const Context *c = w->context;
    const Step *step = c->step;
    int own = step->positions ? 1 : step->tokens;
    int64_t taken = 0;
    for (int token = 0; token < step->tokens; token += own)
        taken = attend_text(w, layer, memory_of(c, segment, token), token, own, taken);
}

/* What all heads of a token have mixed, as the output projection's input. */
static void join_heads(const Context *c, const Layer *layer, Input *in, int token) {
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
            if (p[c->width] == NEVER) continue;
            float factor = expf(p[c->width] - most);
            total += factor * p[c->width + 1];
            for (int d = 0; d < m->head_dim; d++) to[d] += factor * p[d];
        }
        for (int d = 0; d < m->head_dim; d++) to[d] /= total;
    }
    if (is_packed(&layer->o)) quantise(in, token, 0, in->groups);
}

static void attention(Worker *w, const Layer *layer, const Segment *segment) {
    Context *c = w->context;
    const Model *m = &c->model;
    int64_t first, last;
    Product in[3] = {{&layer->q, &c->attention_in, c->q, c->ld_q, 0},
                     {&layer->k, &c->attention_in, c->k, c->ld_kv, 0},
                     {&layer->v, &c->attention_in, c->v, c->ld_kv, 0}};
    compute(w, in, 3);
    together(c);
    finish_heads(w, layer, segment);
    together(c);
    attend_all(w, layer, segment);
    if (w->number == 0) begin_input(&c->output_in, c->step->tokens, m->heads * m->head_dim);
    together(c);
    last = share(w, c->step->tokens, &first);
    for (int64_t t = first; t < last; t++) join_heads(c, layer, &c->output_in, (int)t);
    together(c);
    int into_delta = layer->attention_output.kind != NO_NORM;
    Product out = {&layer->o, &c->output_in, into_delta ? c->delta : c->x, c->ld_hidden, !into_delta};
    compute(w, &out, 1);
    together(c);
}

/* How much each update over a layer's down projection answers to what each token brings: (tokens, edits). */
static void read_edits(const Worker *w, const Layer *layer, int inner) {
    Context *c = w->context;
    int64_t first, last = share(w, (int64_t)c->step->tokens * layer->edits, &first);
    for (int64_t i = first; i < last; i++) {
        const float *x = c->inner_in.rows + i / layer->edits * c->inner_in.ld;
        const float *read = layer->edit_reads + i % layer->edits * inner;
        vf acc = {0};
        int j = 0;
        for (; j + LANES <= inner; j += LANES) acc += load(x + j) * load(read + j);
        float total = sum(acc);
        for (; j < inner; j++) total += x[j] * read[j];
        c->edited[i] = total;
    }
}

/* What the updates write, added to the rows that this worker has computed of the down projection. */
static void write_edits(const Worker *w, const Layer *layer, float *out) {
    const Context *c = w->context;
    int hidden = layer->down.rows;
    int64_t first, last = share(w, row_blocks(&layer->down), &first);
    int from = (int)first * BLOCK_ROWS, to = (int)last * BLOCK_ROWS < hidden ? (int)last * BLOCK_ROWS : hidden;
    for (int t = 0; t < c->step->tokens; t++)
        for (int e = 0; e < layer->edits; e++) {
            const float *write = layer->edit_writes + (int64_t)e * hidden;
            float factor = c->edited[(int64_t)t * layer->edits + e], *x = out + t * c->ld_hidden;
            for (int i = from; i < to; i++) x[i] += factor * write[i];
        }
}

/* A network of one gate, up and down projection: from `in` to `out`, which it adds to or stores in. */
static void network(const Worker *w, const Layer *layer, int inner, const Input *in, float *out, int add) {
    Context *c = w->context;
    const Model *m = &c->model;
    int tokens = c->step->tokens, gated = layer->gate.data != NULL;
    Product products[2] = {{&layer->up, in, c->up, c->ld_inner, 0}, {&layer->gate, in, c->gate, c->ld_inner, 0}};
    compute(w, products, gated ? 2 : 1);
    if (w->number == 0) begin_input(&c->inner_in, tokens, inner);
    together(c);
    /* In pieces of a few groups, so that even a single token's work is shared. */
    enum { PIECE = 8 };
    int pieces = (c->inner_in.groups + PIECE - 1) / PIECE;
    int64_t first, last = share(w, (int64_t)tokens * pieces, &first);
    for (int64_t i = first; i < last; i++) {
        int token = (int)(i / pieces), group = (int)(i % pieces) * PIECE, column = group * GROUP;
        int groups = c->inner_in.groups - group < PIECE ? c->inner_in.groups - group : PIECE;
        int count = inner - column < groups * GROUP ? inner - column : groups * GROUP;
        int64_t at = token * c->ld_inner + column;
        activate(m->activation, gated ? c->gate + at : c->up + at, gated ? c->up + at : NULL,
                 c->inner_in.rows + token * c->inner_in.ld + column, count);
        if (is_packed(&layer->down)) quantise(&c->inner_in, token, group, group + groups);
    }
    together(c);
    if (layer->edits) {
        read_edits(w, layer, inner);
        together(c);
    }
    Product down = {&layer->down, &c->inner_in, out, c->ld_hidden, add};
    compute(w, &down, 1);
    if (layer->edits) write_edits(w, layer, out);
    together(c);
}

/* The part of an input that belongs to one expert: its tokens, in tiles of their own. */
static Input slots_of(const Input *all, int64_t slot, int tokens, int columns) {
    Input in = *all;
    begin_input(&in, tokens, columns);
    in.rows += slot * in.ld;
    in.codes += slot * in.groups * CODES;
    in.scale += slot * in.groups;
    in.total += slot * in.groups;
    in.shift += slot * in.groups;
    return in;
}

/* Sort the pairs by expert; each expert's begin at a slot of their own. */
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

/* Each worker's share of one matrix of all experts that have tokens. */
static void compute_experts(const Worker *w, const Experts *experts, const Matrix *m, const Input *in, float *out,
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
            multiply(m, e, &own, out + c->first_pair[e] * ld, ld, 0, (int)from, (int)to);
        }
        at += blocks;
    }
}

static void mixture(Worker *w, const Layer *layer, const Input *in, float *out, int add) {
    Context *c = w->context;
    const Model *m = &c->model;
    const Experts *experts = &layer->experts;
    int tokens = c->step->tokens, pairs = tokens * experts->chosen;
    int64_t first, last;
    Product route[2] = {{&experts->router, in, c->routed, experts->count, 0},
                        {&experts->shared_gate, in, c->shared_factor, 1, 0}};
    compute(w, route, experts->shared_gate.data ? 2 : 1);
    together(c);
    last = share(w, tokens, &first);
    for (int64_t t = first; t < last; t++)
        choose(experts, c->routed + t * experts->count, c->chosen + t * experts->chosen,
               c->pair_weights + t * experts->chosen, w->scores);
    together(c);
    if (w->number == 0) sort_pairs(c, experts);
    together(c);
    last = share(w, pairs, &first);
    for (int64_t pair = first; pair < last; pair++) {
        int p = c->pair_token[pair], token = p / experts->chosen, e = c->chosen[p];
        Input own = slots_of(&c->pair_in, c->first_slot[e], c->first_pair[e + 1] - c->first_pair[e], m->hidden);
        int place = (int)pair - c->first_pair[e];
        float *to = own.rows + place * own.ld, factor = experts->scales_input ? c->pair_weights[p] : 1;
        for (int i = 0; i < m->hidden; i++) to[i] = in->rows[token * in->ld + i] * factor;
        if (is_packed(&experts->gate_up)) quantise(&own, place, 0, own.groups);
    }
    together(c);
    compute_experts(w, experts, &experts->gate_up, &c->pair_in, c->pair_hidden, c->ld_pair);
    together(c);
    for (int64_t pair = first; pair < last; pair++) {
        int e = c->chosen[c->pair_token[pair]], place = (int)pair - c->first_pair[e];
        Input own = slots_of(&c->pair_inner, c->first_slot[e], c->first_pair[e + 1] - c->first_pair[e], experts->size);
        const float *gate = c->pair_hidden + pair * c->ld_pair, *up = gate + experts->size;
        if (experts->clamped)
            activate_clamped(experts->alpha, experts->limit, gate, up, own.rows + place * own.ld, experts->size);
        else
            activate(m->activation, gate, up, own.rows + place * own.ld, experts->size);
        if (is_packed(&experts->down)) quantise(&own, place, 0, own.groups);
    }
    together(c);
    compute_experts(w, experts, &experts->down, &c->pair_inner, c->pair_out, c->ld_hidden);
    if (experts->shared)
        network(w, layer, experts->shared, in, c->shared_out, 0);
    else
        together(c);
    last = share(w, tokens, &first);
    for (int64_t t = first; t < last; t++) {
        float *to = out + t * c->ld_hidden, gate = 1;
        if (!add) memset(to, 0, (size_t)m->hidden * sizeof *to);
        for (int i = 0; i < experts->chosen; i++) {
            int64_t p = t * experts->chosen + i;
            const float *from = c->pair_out + c->pair_of[p] * c->ld_hidden;
            float weight = experts->scales_input ? 1 : c->pair_weights[p];
            for (int j = 0; j < m->hidden; j++) to[j] += weight * from[j];
        }
        if (!experts->shared) continue;
        if (experts->shared_gate.data) gate = 1 / (1 + expf(-c->shared_factor[t]));
        for (int j = 0; j < m->hidden; j++) to[j] += gate * c->shared_out[t * c->ld_hidden + j];
    }
    together(c);
}

/* Add what attention or feed-forward has left aside, normalised. */
static void add_delta(Context *c, const Norm *norm, int token) {
    float *delta = c->delta + token * c->ld_hidden, *x = c->x + token * c->ld_hidden;
    normalise(norm, delta, delta, c->model.hidden, 0);
    for (int i = 0; i < c->model.hidden; i++) x[i] += delta[i];
}

static int reads_quantised(const Layer *layer, int second) {
    if (!second) return is_packed(&layer->q) || is_packed(&layer->k) || is_packed(&layer->v);
    return is_packed(&layer->up) || is_packed(&layer->gate);
}

static void run_layer(Worker *w, const Layer *layer, const Segment *segment) {
    Context *c = w->context;
    const Model *m = &c->model;
    int64_t first, last = share(w, c->step->tokens, &first);
    int both = m->parallel && !m->shared_norm;
    const Input *second = m->shared_norm ? &c->attention_in : &c->second_in;
    int quantised = reads_quantised(layer, 0) || (m->shared_norm && reads_quantised(layer, 1));
    for (int64_t t = first; t < last; t++) {
        enter(c, &layer->input_norm, &c->attention_in, (int)t, quantised);
        if (both) enter(c, &layer->second_norm, &c->second_in, (int)t, reads_quantised(layer, 1));
    }
    together(c);
    attention(w, layer, segment);
    if (!m->parallel) {
        for (int64_t t = first; t < last; t++) {
            if (layer->attention_output.kind != NO_NORM) add_delta(c, &layer->attention_output, (int)t);
            enter(c, &layer->second_norm, &c->second_in, (int)t, reads_quantised(layer, 1));
        }
        together(c);
    }
    int aside = layer->feed_forward_output.kind != NO_NORM;
    float *out = aside ? c->delta : c->x;
    if (layer->experts.count)
        mixture(w, layer, second, out, !aside);
    else
        network(w, layer, m->intermediate, second, out, !aside);
    if (aside)
        for (int64_t t = first; t < last; t++) add_delta(c, &layer->feed_forward_output, (int)t);
}

static void run(Worker *w) {
    Context *c = w->context;
    const Model *m = &c->model;
    const Step *step = c->step;
    int64_t first, last = share(w, step->tokens, &first);
    for (int64_t t = first; t < last; t++) embed(c, (int)t);
    for (int i = 0; i < m->layers; i++) run_layer(w, c->layers + i, step->segments + i);
    together(c);
    int skipped = step->only_last ? step->tokens - 1 : 0, tokens = step->tokens - skipped;
    if (w->number == 0) begin_input(&c->attention_in, tokens, m->hidden);
    together(c);
    last = share(w, tokens, &first);
    for (int64_t t = first; t < last; t++) {
        Input *in = &c->attention_in;
        normalise(&m->norm, c->x + (skipped + t) * c->ld_hidden, in->rows + t * in->ld, m->hidden, 0);
        if (is_packed(&m->head)) quantise(in, (int)t, 0, in->groups);
    }
    together(c);
    Product head = {&m->head, &c->attention_in, step->logits, m->vocabulary, 0};
    compute(w, &head, 1);
    together(c);
    if (m->logit_scale != 1 || m->logit_softcap > 0) {
        /* In pieces that begin at the same places of each row, since what is left of a vector is computed otherwise. */
        enum { PIECE = 1024 };
        int64_t pieces = (m->vocabulary + PIECE - 1) / PIECE;
        last = share(w, tokens * pieces, &first);
        for (int64_t i = first; i < last; i++) {
            int64_t at = i % pieces * PIECE, count = m->vocabulary - at < PIECE ? m->vocabulary - at : PIECE;
            soft_cap(step->logits + i / pieces * m->vocabulary + at, count, m->logit_scale, m->logit_softcap);
        }
        together(c);
    }
}

static void *work(void *argument) {
    Worker *w = argument;
    for (;;) {
        barrier_wait(&w->context->barrier, IDLE_PATIENCE);
        if (w->context->leaving) return NULL;
#ifdef __linux__
        const Context *c = w->context;
        if (c->first_core >= 0) stay_on(&c->cores, (c->first_core + w->number) % c->cores.cores, &w->core);
#endif
        run(w);
    }
}

static void allocate(Context *c) {
    const Model *m = &c->model;
    int n = m->capacity, inner = m->intermediate, experts = 0, chosen = 0, size = 0, edits = 0;
    for (int i = 0; i < m->layers; i++) {
        const Experts *e = &c->layers[i].experts;
        if (c->layers[i].edits > edits) edits = c->layers[i].edits;
        if (e->count > experts) experts = e->count;
        if (e->count && e->chosen > chosen) chosen = e->chosen;
        if (e->count && e->size > size) size = e->size;
        if (e->count && e->shared > inner) inner = e->shared;
    }
    int heads = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim;
    c->width = (int)round_up(m->head_dim, LANES);
    c->most_splits = c->threads;
    c->ld_hidden = round_up(m->hidden, 16), c->ld_q = round_up(heads, 16), c->ld_kv = round_up(kv, 16);
    c->ld_inner = round_up(inner, 16);
    c->x = floats(c, n * c->ld_hidden), c->delta = floats(c, n * c->ld_hidden);
    c->q = floats(c, n * c->ld_q), c->k = floats(c, n * c->ld_kv), c->v = floats(c, n * c->ld_kv);
    c->gate = floats(c, n * c->ld_inner), c->up = floats(c, n * c->ld_inner);
    if (edits) c->edited = floats(c, (int64_t)n * edits);
    c->attention_in = input(c, n, m->hidden), c->second_in = input(c, n, m->hidden);
    c->output_in = input(c, n, heads), c->inner_in = input(c, n, inner);
    /* Keys are only split for the few tokens of a tile. */
    int64_t split = (n < TILE ? n : TILE) * (int64_t)c->most_splits;
    c->parts = floats(c, (split > n ? split : n) * m->heads * (c->width + 2));
    if (experts) {
        int64_t pairs = (int64_t)n * chosen, slots = 2 * pairs; /* a tile may be twice as wide as it has tokens */
        c->most_pairs = (int)pairs;
        c->routed = floats(c, (int64_t)n * experts), c->pair_weights = floats(c, pairs);
        c->ld_pair = round_up(2 * (int64_t)size, 16);
        c->pair_hidden = floats(c, pairs * c->ld_pair), c->pair_out = floats(c, pairs * c->ld_hidden);
        c->shared_out = floats(c, n * c->ld_hidden), c->shared_factor = floats(c, n);
        c->chosen = room(c, pairs * 4), c->pair_of = room(c, (pairs + experts) * 4);
        c->first_pair = room(c, ((int64_t)experts + 1) * 4), c->pair_token = room(c, pairs * 4);
        c->first_slot = room(c, (int64_t)experts * 8);
        c->pair_in = input(c, (int)slots, m->hidden), c->pair_inner = input(c, (int)slots, size);
    }
    int64_t queries = MOST_QUERIES > m->heads / m->kv_heads ? MOST_QUERIES : m->heads / m->kv_heads;
    for (int i = 0; i < c->threads; i++) {
        /* One piece of memory for each worker; no two share a line of the processor's cache. */
        Scratch *s = &c->workers[i].scratch;
        float *p = floats(c, 2 * queries * c->width + 2 * (int64_t)c->width * KEYS + queries * KEYS + 2 * queries +
                                 3 * (int64_t)experts);
        if (!p) return;
        s->queries = p, p += queries * c->width;
        s->mixed = p, p += queries * c->width;
        s->keys = p, p += (int64_t)c->width * KEYS;
        s->values = p, p += (int64_t)c->width * KEYS;
        s->scores = p, p += queries * KEYS;
        s->most = p, p += queries;
        s->sums = p, p += queries;
        c->workers[i].scores = p;
    }
}

EXPORT void llm_free(Context *c) {
    if (!c) return;
    if (c->started) {
        c->leaving = 1;
        /* Threads that could not be started do not come to the barrier. */
        c->barrier.threads = (unsigned)c->started;
        if (c->started > 1) barrier_wait(&c->barrier, IDLE_PATIENCE);
        for (int i = 1; i < c->started; i++) pthread_join(c->workers[i].thread, NULL);
        pthread_mutex_destroy(&c->barrier.lock);
        pthread_cond_destroy(&c->barrier.changed);
    }
    for (int i = 0; i < c->allocations; i++) give_back(c->memory + i);
    free(c->cpus);
    free(c->workers);
    free(c->layers);
    free(c);
}

/* NULL where there is no memory or no thread to be had. The model and the cores are copied, what the model points at is
   not. */
EXPORT Context *llm_new(const Model *model, int threads, const int32_t *cpus, int cores, int numbers) {
    Context *c = NULL;
    if (posix_memalign((void **)&c, 64, sizeof *c)) return NULL;
    memset(c, 0, sizeof *c);
    c->model = *model;
    c->threads = threads;
    c->layers = malloc(sizeof *c->layers * (size_t)model->layers);
    c->workers = calloc((size_t)threads, sizeof *c->workers);
    c->cpus = malloc(sizeof *c->cpus * (size_t)(cores + numbers + 1));
    if (!c->layers || !c->workers || !c->cpus) {
        llm_free(c);
        return NULL;
    }
    memcpy(c->layers, model->layer, sizeof *c->layers * (size_t)model->layers);
    memcpy(c->cpus, cpus, sizeof *c->cpus * (size_t)(cores + numbers));
    c->cores = (Cores){c->cpus, cores, numbers};
    c->first_core = -1;
    allocate(c);
    if (c->failed) {
        llm_free(c);
        return NULL;
    }
    c->barrier.threads = (unsigned)threads;
    pthread_mutex_init(&c->barrier.lock, NULL);
    pthread_cond_init(&c->barrier.changed, NULL);
    for (int i = 0; i < threads; i++) {
        c->workers[i].context = c;
        c->workers[i].number = i;
        c->workers[i].core = -1;
        if (i > 0 && pthread_create(&c->workers[i].thread, NULL, work, &c->workers[i])) {
            llm_free(c);
            return NULL;
        }
        c->started = i + 1;
    }
    return c;
}

/* 0, or what is out of bounds for `tokens` tokens of a text from `start` on. */
static int check_text(const Context *c, const Segment *segments, int64_t start, int tokens) {
    const Model *m = &c->model;
    if (start < 0) return 2;
    for (int i = 0; i < m->layers; i++) {
        const Segment *s = segments + i;
        if (s->first > first_visible(c->layers + i, start)) return 4;
        if (s->first + s->size < start + tokens) return 4;
    }
    return m->positions.data && start + tokens > m->positions.rows ? 5 : 0;
}

/* 0, or which of the step's numbers is out of bounds. */
EXPORT int llm_step(Context *c, const Step *step) {
    const Model *m = &c->model;
    int problem = 0;
    if (step->tokens < 1 || step->tokens > m->capacity) return 1;
    /* There is memory for as many texts as tokens of a tile, each with its keys split. */
    if (step->positions && step->tokens > TILE) return 1;
    for (int t = 0; t < step->tokens; t++)
        if (step->ids[t] < 0 || step->ids[t] >= m->vocabulary) return 3;
    if (!step->positions) problem = check_text(c, step->segments, step->start, step->tokens);
    for (int t = 0; step->positions && t < step->tokens && !problem; t++)
        problem = check_text(c, step->segments + (int64_t)t * m->layers, step->positions[t], 1);
    if (problem) return problem;
    c->step = step;
    begin_input(&c->attention_in, step->tokens, m->hidden);
    begin_input(&c->second_in, step->tokens, m->hidden);
#ifdef __linux__
    /* The caller stays where it is until the end of the call. */
    cpu_set_t before;
    int core = c->threads > 1 && c->threads <= c->cores.cores ? current_core(&c->cores) : -1, at = -1;
    if (core >= 0 && sched_getaffinity(0, sizeof before, &before) != 0) core = -1;
    c->first_core = core;
    if (core >= 0) stay_on(&c->cores, core, &at);
#endif
    barrier_wait(&c->barrier, PATIENCE);
    run(&c->workers[0]);
#ifdef __linux__
    if (at >= 0) sched_setaffinity(0, sizeof before, &before);
#endif
    return 0;
}

/* `rows` rows of a block format, in that order or the one given, into packed blocks from row `first` on. */
EXPORT void llm_pack(int format, const uint8_t *stored, int64_t row_bytes, const int32_t *order, int rows, int groups,
                     int64_t first, uint8_t *blocks) {
    switch (format) {
    case Q4_0: pack_rows(Q4_0, stored, row_bytes, order, rows, groups, first, blocks); break;
    case Q4_1: pack_rows(Q4_1, stored, row_bytes, order, rows, groups, first, blocks); break;
    case Q4_K: pack_rows(Q4_K, stored, row_bytes, order, rows, groups, first, blocks); break;
    case Q5_0: pack_rows(Q5_0, stored, row_bytes, order, rows, groups, first, blocks); break;
    case Q8_0: pack_rows(Q8_0, stored, row_bytes, order, rows, groups, first, blocks); break;
    case IQ4_NL: pack_rows(IQ4_NL, stored, row_bytes, order, rows, groups, first, blocks); break;
    }
}

EXPORT const char *llm_isa(void) { return ISA; }

/* The version of this interface, and the sizes of its structures as this compiler lays them out. */
EXPORT int64_t llm_abi(int what) {
    const int64_t answers[] = {LLM_ABI, sizeof(Model), sizeof(Layer), sizeof(Step), sizeof(Segment), sizeof(Rotation)};
    return what >= 0 && what < (int)(sizeof answers / sizeof *answers) ? answers[what] : 0;
}
