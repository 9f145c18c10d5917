/* One step of a decoder-only transformer on a CPU: token ids in, logits out, keys and values into the caller's cache.

   Computes what `Transformer.forward` of model/transformer.py computes, in float32 but for weights of 4 and 8 bits, which
   are multiplied with activations rounded to 16 bits by groups of 32. All threads run `run` together; what one of them
   must have finished before another goes on is marked by `together`. There is no state but the Context. */
#ifdef __linux__
#define _GNU_SOURCE /* where threads run */
#endif
#include <poll.h>
#include <stdlib.h>

#include "attention/attend.h"
#include "layers/activation.h"
#include "layers/moe_router.h"
#include "layers/norm.h"
#include "layers/rope.h"
#include "logits/argmax.h"
#include "logits/head_screening.h"
#include "logits/sampling.h"
#include "logits/softcap.h"
#include "matmul/matmul.h"
#include "matmul/read_row.h"
#include "runtime/arena.h"
#include "runtime/barrier.h"
#include "runtime/cores.h"
#include "gguf_repack.h"

#define EXPORT __attribute__((visibility("default")))

typedef struct Context Context;

/* What is known of the tokens of a call between the large products: (tokens, ld). */
typedef struct {
    float *x, *delta, *q, *k;
    Input attention_in, output_in, second_in;
} Rows;

typedef struct {
    Context *context;
    int number;
    pthread_t thread;
    int core; /* that it has been put on, or -1 */
    Scratch scratch;
    float *scores; /* of experts, three times their number */
    Rows own, *rows;
    Onward onward;
    int64_t greatest; /* the place of the greatest of the worker's logits; -1: it has none */
    float *doubts;    /* about groups of columns of the head */
    int looked_at;    /* row blocks of the head that had to be read whole */
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
    /* Of all tokens of a call. A single token's norms, rotations and roundings are made by each worker in rows of its
       own: that takes no longer than to wait for the one who would make them. */
    Rows shared;
    float *v, *gate, *up, *edited;
    int64_t ld_hidden, ld_q, ld_kv, ld_inner;
    Input inner_in;
    float *parts; /* (splits, tokens, heads, width + 2): mixtures, then greatest score and sum of exponentials */
    /* Of experts: pairs are a token with an expert it is sent to, sorted by expert. */
    float *routed, *pair_weights, *pair_hidden, *pair_out, *shared_out, *shared_factor;
    int32_t *chosen, *pair_of, *first_pair, *pair_token;
    int64_t *first_slot;
    Input pair_in, pair_inner;
    int64_t ld_pair;
    int most_pairs;
    /* Of a pass of which only the greatest logit is wanted, among so many of the first tokens; 0: all logits are. */
    int choosable;
    float limit; /* that other rows' logits are to reach */
    Screen screen;
    atomic_int surprised;
    int unscreened, pause; /* passes to come for which nothing may be gained, and how many after the next such failure */
    Memory memory;
};

static void *room(Context *c, int64_t bytes) { return get_zeros(&c->memory, bytes); }

static float *floats(Context *c, int64_t count) { return room(c, count * 4); }

/* Room for tokens of up to so many columns, in `slots` of which none is lost to tiles of a width that is no power of 2. */
static Input input(Context *c, int slots, int columns) {
    int64_t groups = (columns + GROUP - 1) / GROUP, padded = slots / TILE * TILE;
    if (slots % TILE) padded += tile_width(slots % TILE, 0);
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

static void together(Worker *w) { barrier_wait(&w->context->barrier, PATIENCE, &w->onward); }

static int is_single(const Context *c) { return c->step->tokens == 1; }

/* The share of `total` things that falls to a worker: from *first to the result. */
static int64_t share(const Worker *w, int64_t total, int64_t *first) {
    *first = total * w->number / w->context->threads;
    return total * (w->number + 1) / w->context->threads;
}

/* The tokens whose rows a worker makes: its share of them, or the only one. */
static int64_t own_tokens(const Worker *w, int64_t tokens, int64_t *first) {
    if (!is_single(w->context)) return share(w, tokens, first);
    *first = 0;
    return 1;
}

/* Between making rows that all read and reading them. */
static void rows_together(Worker *w) {
    if (!is_single(w->context)) together(w);
}

typedef struct {
    const Matrix *matrix;
    const Input *in;
    float *out;
    int64_t ld;
} Product;

static int64_t share_of_rows(const Worker *w, const Product *products, int count, int64_t *first) {
    int64_t total = 0;
    for (int i = 0; i < count; i++) total += row_blocks(products[i].matrix);
    return share(w, total, first);
}

/* Where most of the head had to be read whole it is tried again after a few passes, of these at most. */
enum { LONGEST_PAUSE = 64 };

/* As much as a thread may ask for before it reads, in bytes. */
enum { ONWARD = 1 << 17 };

static const Place NOWHERE = {0};

/* A worker will read on at `next`, if that is known, of which products have asked for the beginning. */
static void go_on_at(Worker *w, Place next) {
    w->onward = (Onward){0};
    if (!next.near || !is_single(w->context)) return;
    int64_t asked = next.rest ? HALF_AHEAD : AHEAD;
    w->onward = (Onward){next.near + asked, next.near + ONWARD, next.rest ? next.rest + asked : NULL};
}

/* Each worker computes its share of the rows of all products taken together, and then reads on at `next`. */
static void compute(Worker *w, const Product *products, int count, Place next) {
    int64_t first, last = share_of_rows(w, products, count, &first), at = 0;
    for (int i = 0; i < count; i++) {
        const Product *p = products + i;
        int64_t blocks = row_blocks(p->matrix), from = first - at, to = last - at;
        if (from < 0) from = 0;
        if (to > blocks) to = blocks;
        at += blocks;
        Place then = i + 1 < count && last > at ? place_at(products[i + 1].matrix, 0, 0) : next;
        if (from < to) multiply(p->matrix, 0, p->in, p->out, p->ld, (int)from, (int)to, then);
    }
    go_on_at(w, next);
}

/* Where a worker will begin to read. */
static Place beginning(const Worker *w, const Product *products, int count) {
    int64_t first;
    share_of_rows(w, products, count, &first);
    for (int i = 0; i < count; i++) {
        int64_t blocks = row_blocks(products[i].matrix);
        if (first < blocks) return place_at(products[i].matrix, 0, first);
        first -= blocks;
    }
    return NOWHERE;
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

static void embed(const Worker *w, int token) {
    const Context *c = w->context;
    const Model *m = &c->model;
    float *x = w->rows->x + token * c->ld_hidden;
    read_row(&m->embedding, c->step->ids[token], x);
    for (int i = 0; i < m->hidden; i++) x[i] *= m->embed_scale;
    if (m->positions.data) {
        float *added = w->rows->delta + token * c->ld_hidden;
        read_row(&m->positions, (int)position_of(c->step, token), added);
        for (int i = 0; i < m->hidden; i++) x[i] += added[i];
    }
}

/* Put a token's normed residual stream into an input. */
static void enter(Worker *w, const Norm *norm, Input *in, int token, int quantised) {
    const Context *c = w->context;
    ask_onward(&w->onward);
    normalise(norm, w->rows->x + token * c->ld_hidden, in->rows + token * in->ld, c->model.hidden, 0);
    ask_onward(&w->onward);
    if (quantised) quantise(in, token, 0, in->groups);
    ask_onward(&w->onward);
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
        int64_t at = (c->step->skipped + token) * r->half;
        rotate(x, r->cos + at, r->sin + at, r->half);
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
    int64_t at = place_in(segment, head, position_of(c->step, token), m->head_dim);
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

static void finish_query(const Worker *w, const Layer *layer, int head, int token) {
    const Context *c = w->context;
    finish_head(c, layer, w->rows->q + token * c->ld_q + head * c->model.head_dim, &layer->q_norm, head, token, 1);
}

static void finish_key(const Worker *w, const Layer *layer, const Segment *segment, int head, int token) {
    const Context *c = w->context;
    float *k = w->rows->k + token * c->ld_kv + head * c->model.head_dim;
    finish_head(c, layer, k, &layer->k_norm, head, token, 0);
    keep(c, segment->keys, segment, k, head, token);
}

static void finish_value(const Worker *w, const Segment *segment, int head, int token) {
    const Context *c = w->context;
    float *v = c->v + token * c->ld_kv + head * c->model.head_dim;
    if (c->model.clip > 0) clip(v, c->model.head_dim, c->model.clip);
    keep(c, segment->values, segment, v, head, token);
}

/* Norms over all heads of a token. */
static void finish_whole(const Worker *w, const Layer *layer, int token) {
    const Context *c = w->context;
    const Model *m = &c->model;
    int heads = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim;
    float *q = w->rows->q + token * c->ld_q, *k = w->rows->k + token * c->ld_kv;
    normalise(&layer->q_norm, q, q, heads, 0);
    normalise(&layer->k_norm, k, k, kv, 0);
    if (m->clip > 0) {
        clip(q, heads, m->clip);
        clip(k, kv, m->clip);
    }
}

/* Norms, rotation, and keys and values into the cache: each worker some heads of some tokens. */
static void finish_heads(Worker *w, const Layer *layer, const Segment *segment) {
    Context *c = w->context;
    const Model *m = &c->model;
    int tokens = c->step->tokens, heads = m->heads + 2 * m->kv_heads;
    int64_t first, last;
    if (m->qk_norm == QK_WHOLE) {
        last = share(w, tokens, &first);
        for (int64_t t = first; t < last; t++) finish_whole(w, layer, (int)t);
        together(w);
    }
    last = share(w, (int64_t)tokens * heads, &first);
    for (int64_t i = first; i < last; i++) {
        int token = (int)(i / heads), head = (int)(i % heads);
        const Segment *own = memory_of(c, segment, token);
        if (head < m->heads)
            finish_query(w, layer, head, token);
        else if ((head -= m->heads) < m->kv_heads)
            finish_key(w, layer, own, head, token);
        else
            finish_value(w, own, head - m->kv_heads, token);
    }
    together(w);
}

/* A single token's queries and keys as they have been computed, into the worker's own rows. */
static void take_heads(const Worker *w, const Layer *layer) {
    const Context *c = w->context;
    const Model *m = &c->model;
    memcpy(w->rows->q, c->shared.q, (size_t)m->heads * (size_t)m->head_dim * sizeof(float));
    memcpy(w->rows->k, c->shared.k, (size_t)m->kv_heads * (size_t)m->head_dim * sizeof(float));
    if (m->qk_norm == QK_WHOLE) finish_whole(w, layer, 0);
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

typedef struct {
    Product products[3];
    int count;
} Products;

static Products attention_products(const Worker *w, const Layer *layer) {
    const Context *c = w->context;
    const Input *in = &w->rows->attention_in;
    return (Products){{{&layer->q, in, c->shared.q, c->ld_q},
                       {&layer->k, in, c->shared.k, c->ld_kv},
                       {&layer->v, in, c->v, c->ld_kv}},
                      3};
}

/* Where a worker begins to read what comes after attention; nowhere where experts are yet to be chosen. */
static Place beginning_of_network(const Worker *w, const Layer *layer) {
    int64_t first;
    if (layer->experts.count) return NOWHERE;
    share(w, (w->context->model.intermediate + GROUP - 1) / GROUP, &first);
    return place_at(&layer->up, 0, first * (GROUP / BLOCK_ROWS));
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

/* How much each update over a layer's down projection answers to what each token brings: (tokens, edits). */
static void read_edits(const Worker *w, const Layer *layer, const Input *in) {
    Context *c = w->context;
    int inner = in->columns;
    int64_t first, last = share(w, (int64_t)c->step->tokens * layer->edits, &first);
    for (int64_t i = first; i < last; i++) {
        const float *x = in->rows + i / layer->edits * in->ld;
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
            multiply(m, e, &own, out + c->first_pair[e] * ld, ld, (int)from, (int)to, NOWHERE);
        }
        at += blocks;
    }
}

static void mixture(Worker *w, const Layer *layer, const Input *in, float *out, Place next) {
    Context *c = w->context;
    const Model *m = &c->model;
    const Experts *experts = &layer->experts;
    int tokens = c->step->tokens, pairs = tokens * experts->chosen;
    int64_t first, last;
    Product route[2] = {{&experts->router, in, c->routed, experts->count},
                        {&experts->shared_gate, in, c->shared_factor, 1}};
    compute(w, route, experts->shared_gate.data ? 2 : 1, NOWHERE);
    together(w);
    last = share(w, tokens, &first);
    for (int64_t t = first; t < last; t++)
        choose(experts, c->routed + t * experts->count, c->chosen + t * experts->chosen,
               c->pair_weights + t * experts->chosen, w->scores);
    together(w);
    if (w->number == 0) sort_pairs(c, experts);
    together(w);
    last = share(w, pairs, &first);
    for (int64_t pair = first; pair < last; pair++) {
        int p = c->pair_token[pair], token = p / experts->chosen, e = c->chosen[p];
        Input own = slots_of(&c->pair_in, c->first_slot[e], c->first_pair[e + 1] - c->first_pair[e], m->hidden);
        int place = (int)pair - c->first_pair[e];
        float *to = own.rows + place * own.ld, factor = experts->scales_input ? c->pair_weights[p] : 1;
        for (int i = 0; i < m->hidden; i++) to[i] = in->rows[token * in->ld + i] * factor;
        if (is_packed(&experts->gate_up)) quantise(&own, place, 0, own.groups);
    }
    together(w);
    compute_experts(w, experts, &experts->gate_up, &c->pair_in, c->pair_hidden, c->ld_pair);
    together(w);
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
    together(w);
    compute_experts(w, experts, &experts->down, &c->pair_inner, c->pair_out, c->ld_hidden);
    if (experts->shared)
        network(w, layer, experts->shared, in, c->shared_out, next);
    else
        together(w);
    last = share(w, tokens, &first);
    for (int64_t t = first; t < last; t++) {
        float *to = out + t * c->ld_hidden, gate = 1;
        memset(to, 0, (size_t)m->hidden * sizeof *to);
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
    together(w);
}

/* Add what attention or feed-forward has left in the shared delta, normalised, to the residual stream. */
static void add_delta(const Worker *w, const Norm *norm, int token) {
    const Context *c = w->context;
    const float *delta = c->shared.delta + token * c->ld_hidden;
    float *own = w->rows->delta + token * c->ld_hidden, *x = w->rows->x + token * c->ld_hidden;
    if (norm->kind != NO_NORM) {
        normalise(norm, delta, own, c->model.hidden, 0);
        delta = own;
    }
    for (int i = 0; i < c->model.hidden; i++) x[i] += delta[i];
}

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

/* Of the first `count` of the only row of logits; what a worker has just computed is still at hand. */
static void note_greatest(Worker *w, int64_t from, int64_t to, int64_t count) {
    if (to > count) to = count;
    w->greatest = from < to ? from + first_greatest(w->context->step->logits + from, to - from) : -1;
}

/* The first of the greatest that workers have noted, each of a later part of the row than the one before. */
static int64_t greatest_noted(const Context *c) {
    const float *logits = c->step->logits;
    int64_t best = -1;
    for (int i = 0; i < c->threads; i++) {
        int64_t place = c->workers[i].greatest;
        if (place >= 0 && (best < 0 || (logits[best] == logits[best] && !(logits[place] <= logits[best])))) best = place;
    }
    return best;
}

static void begin_rows(const Model *m, Rows *rows, int tokens) {
    begin_input(&rows->attention_in, tokens, m->hidden);
    begin_input(&rows->second_in, tokens, m->hidden);
    begin_input(&rows->output_in, tokens, m->heads * m->head_dim);
}

static void all_logits(Worker *w, const Product *head, Place next) {
    int64_t first, last = share_of_rows(w, head, 1, &first);
    compute(w, head, 1, next);
    if (head->in->tokens == 1) note_greatest(w, first * BLOCK_ROWS, last * BLOCK_ROWS, head->matrix->rows);
    together(w);
}

/* The logit of the row that is estimated to have the greatest. */
static float logit_of_best(Context *c, const Product *head) {
    int64_t best = greatest_noted(c), block = best / BLOCK_ROWS;
    if (!isfinite(head->out[best])) return -INFINITY;
    if (look_at(head->matrix, head->in, head->out, &c->screen, block, block)) c->surprised = 1;
    c->workers[0].looked_at++;
    return head->out[best];
}

/* Read those of a worker's row blocks whole whose logits may reach the limit. */
static void look_again(Worker *w, const Product *head, float limit, int64_t first, int64_t last) {
    Context *c = w->context;
    for (int64_t block = next_to_look_at(&c->screen, limit, first, last), then; block < last; block = then) {
        then = next_to_look_at(&c->screen, limit, block + 1, last);
        if (look_at(head->matrix, head->in, head->out, &c->screen, block, then < last ? then : block)) c->surprised = 1;
        w->looked_at++;
    }
}

/* The greatest logit of those that can be chosen, and for the others something less. */
static void screen(Worker *w, const Product *head, Place next) {
    Context *c = w->context;
    int64_t first, last = share_of_rows(w, head, 1, &first);
    w->looked_at = 0;
    find_doubts(head->in, w->doubts);
    estimate(head->matrix, head->in, w->doubts, head->out, &c->screen, (int)first, (int)last, next);
    go_on_at(w, next);
    note_greatest(w, first * BLOCK_ROWS, last * BLOCK_ROWS, c->choosable);
    together(w);
    if (w->number == 0) c->limit = logit_of_best(c, head);
    together(w);
    look_again(w, head, c->limit, first, last);
    together(w);
    if (c->surprised) look_again(w, head, -INFINITY, first, last);
    note_greatest(w, first * BLOCK_ROWS, last * BLOCK_ROWS, c->choosable);
    together(w);
}

static void run(Worker *w) {
    Context *c = w->context;
    const Model *m = &c->model;
    const Step *step = c->step;
    w->rows = is_single(c) ? &w->own : &c->shared;
    int64_t first, last = own_tokens(w, step->tokens, &first);
    for (int64_t t = first; t < last; t++) embed(w, (int)t);
    int skipped = step->only_last ? step->tokens - 1 : 0, tokens = step->tokens - skipped;
    Input in = w->rows->attention_in;
    begin_input(&in, tokens, m->hidden);
    Product head = {&m->head, &in, step->logits, m->vocabulary};
    for (int i = 0; i < m->layers; i++) {
        int is_last = i + 1 == m->layers;
        Products then = is_last ? (Products){{head}, 1} : attention_products(w, c->layers + i + 1);
        Place next = beginning(w, then.products, then.count);
        if (is_last && c->choosable) next.rest = NULL;
        run_layer(w, c->layers + i, step->segments + i, next);
    }
    rows_together(w);
    last = own_tokens(w, tokens, &first);
    for (int64_t t = first; t < last; t++) {
        normalise(&m->norm, w->rows->x + (skipped + t) * c->ld_hidden, in.rows + t * in.ld, m->hidden, 0);
        if (is_packed(&m->head)) quantise(&in, (int)t, 0, in.groups);
    }
    rows_together(w);
    /* The next token's weights are these again. */
    Products again = attention_products(w, c->layers);
    Place next = beginning(w, again.products, again.count);
    if (c->choosable)
        screen(w, &head, next);
    else
        all_logits(w, &head, next);
    if (m->logit_scale != 1 || m->logit_softcap > 0) {
        /* In pieces that begin at the same places of each row, since what is left of a vector is computed otherwise. */
        enum { PIECE = 1024 };
        int64_t pieces = (m->vocabulary + PIECE - 1) / PIECE;
        last = share(w, tokens * pieces, &first);
        for (int64_t i = first; i < last; i++) {
            int64_t at = i % pieces * PIECE, count = m->vocabulary - at < PIECE ? m->vocabulary - at : PIECE;
            soft_cap(step->logits + i / pieces * m->vocabulary + at, count, m->logit_scale, m->logit_softcap);
        }
        if (tokens == 1) note_greatest(w, first * PIECE, last * PIECE, m->vocabulary);
        together(w);
    }
}

static void *work(void *argument) {
    Worker *w = argument;
    for (;;) {
        barrier_wait(&w->context->barrier, IDLE_PATIENCE, &w->onward);
        if (w->context->leaving) return NULL;
#ifdef __linux__
        const Context *c = w->context;
        if (c->first_core >= 0) stay_on(&c->cores, (c->first_core + w->number) % c->cores.cores, &w->core);
#endif
        run(w);
    }
}

static Rows make_rows(Context *c, int tokens) {
    const Model *m = &c->model;
    Rows rows = {.x = floats(c, tokens * c->ld_hidden), .delta = floats(c, tokens * c->ld_hidden)};
    rows.q = floats(c, tokens * c->ld_q), rows.k = floats(c, tokens * c->ld_kv);
    rows.attention_in = input(c, tokens, m->hidden), rows.second_in = input(c, tokens, m->hidden);
    rows.output_in = input(c, tokens, m->heads * m->head_dim);
    begin_rows(m, &rows, tokens);
    return rows;
}

enum { LAYER_MATRICES = 11 };

typedef struct {
    Matrix *matrices[LAYER_MATRICES];
} Matrices;

/* All that a layer multiplies with. */
static Matrices matrices_of(Layer *layer) {
    Experts *e = &layer->experts;
    return (Matrices){{&layer->q, &layer->k, &layer->v, &layer->o, &layer->gate, &layer->up, &layer->down, &e->router,
                       &e->gate_up, &e->down, &e->shared_gate}};
}

static void make_bases(Context *c, Matrix *m) {
    m->bases = m->data && m->format == PACKED4 ? room(c, (int64_t)m->count * row_blocks(m) * 4) : NULL;
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
    for (int i = 0; i < m->layers; i++) {
        Matrices all = matrices_of(c->layers + i);
        for (int k = 0; k < LAYER_MATRICES; k++) make_bases(c, all.matrices[k]);
    }
    make_bases(c, &c->model.head);
    c->width = (int)round_up(m->head_dim, LANES);
    c->most_splits = c->threads;
    c->ld_hidden = round_up(m->hidden, 16), c->ld_q = round_up(heads, 16), c->ld_kv = round_up(kv, 16);
    c->ld_inner = round_up(inner, 16);
    c->shared = make_rows(c, n);
    c->v = floats(c, n * c->ld_kv);
    c->gate = floats(c, n * c->ld_inner), c->up = floats(c, n * c->ld_inner);
    if (edits) c->edited = floats(c, (int64_t)n * edits);
    c->inner_in = input(c, n, inner);
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
    c->screen.most = floats(c, row_blocks(&m->head)), c->screen.doubt = floats(c, row_blocks(&m->head));
    int64_t queries = MOST_QUERIES > m->heads / m->kv_heads ? MOST_QUERIES : m->heads / m->kv_heads;
    for (int i = 0; i < c->threads; i++) {
        c->workers[i].own = make_rows(c, 1);
        c->workers[i].doubts = floats(c, (m->hidden + GROUP - 1) / GROUP);
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
        barrier_end(&c->barrier);
        for (int i = 1; i < c->started; i++) pthread_join(c->workers[i].thread, NULL);
        pthread_mutex_destroy(&c->barrier.lock);
        pthread_cond_destroy(&c->barrier.changed);
    }
    give_back(&c->memory);
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
    c->pause = 1;
    allocate(c);
    if (c->memory.failed) {
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
static int check_step(const Context *c, const Step *step) {
    const Model *m = &c->model;
    int problem = 0;
    if (step->tokens < 1 || step->tokens > m->capacity) return 1;
    /* There is memory for as many texts as tokens of a tile, each with its keys split. */
    if (step->positions && step->tokens > TILE) return 1;
    for (int t = 0; t < step->tokens; t++)
        if (step->ids[t] < 0 || step->ids[t] >= m->vocabulary) return 3;
    if (!step->positions) return check_text(c, step->segments, step->start, step->tokens);
    for (int t = 0; t < step->tokens && !problem; t++)
        problem = check_text(c, step->segments + (int64_t)t * m->layers, step->positions[t], 1);
    return problem;
}

/* Let the caller stay where it is until the end of the call, and the others go elsewhere. */
static void take_cores(Context *c, Placed *placed) {
    placed->core = -1;
#ifdef __linux__
    int core = c->threads > 1 && c->threads <= c->cores.cores ? current_core(&c->cores) : -1;
    if (core >= 0 && sched_getaffinity(0, sizeof placed->before, &placed->before) != 0) core = -1;
    c->first_core = core;
    if (core >= 0) stay_on(&c->cores, core, &placed->core);
#else
    (void)c;
#endif
}

static void leave_cores(const Placed *placed) {
#ifdef __linux__
    if (placed->core >= 0) sched_setaffinity(0, sizeof placed->before, &placed->before);
#else
    (void)placed;
#endif
}

static void pass(Context *c, Step *step, int choosable) {
    c->step = step;
    c->choosable = choosable;
    begin_rows(&c->model, &c->shared, step->tokens);
    barrier_wait(&c->barrier, PATIENCE, &c->workers[0].onward);
    run(&c->workers[0]);
    step->greatest = (int32_t)greatest_noted(c);
}

/* 0, or which of the step's numbers is out of bounds. */
EXPORT int llm_step(Context *c, Step *step) {
    int problem = check_step(c, step);
    if (problem) return problem;
    Placed placed;
    take_cores(c, &placed);
    pass(c, step, 0);
    leave_cores(&placed);
    return 0;
}

/* The same where the greatest logit of the first tokens is all that is wanted. */
static void greedy_pass(Context *c, Step *step, int choosable) {
    const Matrix *head = &c->model.head;
    int looked_at = 0;
    if (c->unscreened || !can_screen(&c->model)) {
        pass(c, step, 0);
        if (!c->surprised && c->unscreened) c->unscreened--;
        return;
    }
    pass(c, step, choosable);
    for (int i = 0; i < c->threads; i++) looked_at += c->workers[i].looked_at;
    int failed = c->surprised || looked_at > row_blocks(head) / 4;
    c->unscreened = failed ? c->pause : 0;
    c->pause = !failed ? 1 : c->pause < LONGEST_PAUSE ? 2 * c->pause : LONGEST_PAUSE;
    step->unread += unread_bytes(head, c->workers[0].doubts, looked_at);
}

static int can_be_read(int descriptor) {
    struct pollfd asked = {.fd = descriptor, .events = POLLIN};
    return descriptor >= 0 && poll(&asked, 1, 0) > 0;
}

/* From the step's only token on, `count` times at most: the pass of a token, and the choice of the next, into `chosen`,
   until one ends the text or, being -1, cannot be chosen, or there is an alarm. How many were chosen, or below 0: which
   number is out of bounds. */
EXPORT int llm_go_on(Context *c, Step *step, const Choice *choice, int count, int32_t *chosen) {
    const Model *m = &c->model;
    if (step->tokens != 1 || step->positions || count < 1) return -1;
    if (choice->vocabulary < 1 || choice->vocabulary > m->vocabulary) return -6;
    if (choice->temperature != 0 && (choice->top_k < 1 || choice->top_k > MOST_CANDIDATES)) return -6;
    int problem = check_step(c, step), made = 0, ended = 0;
    if (!problem) problem = check_text(c, step->segments, step->start, count);
    if (problem) return -problem;
    Placed placed;
    Step now = *step;
    take_cores(c, &placed);
    for (; made < count && !ended; made++) {
        if (choice->temperature == 0)
            greedy_pass(c, &now, choice->vocabulary);
        else
            pass(c, &now, 0);
        double uniform = choice->temperature == 0 ? 0 : choice->uniforms[made];
        chosen[made] = choose_token(choice, now.logits, now.greatest, uniform);
        ended = is_end(choice, chosen[made]) || can_be_read(choice->alarm);
        now.ids = chosen + made;
        now.start++;
        now.skipped++;
    }
    leave_cores(&placed);
    step->unread = now.unread;
    return made;
}

/* Bytes of the numbers of a matrix that a pass leaves unread since their bases are known, less what fills the last line
   of a row block; of a stack of experts as much as is chosen of it. */
static int64_t spared_by(const Matrix *m, const Experts *experts) {
    int groups = groups_of(m);
    int64_t count = (int64_t)m->count * row_blocks(m), known = 0;
    if (!m->bases) return 0;
    for (int64_t i = 0; i < count; i++) known += m->bases[i] > NO_BASES;
    int64_t filling = number_bytes(PACKED4, groups) - groups * NUMBER_BYTES;
    int64_t spared = known * rest_bytes(PACKED4, groups) - count * filling;
    return m->count > 1 ? spared * experts->chosen / experts->count : spared;
}

/* The same of all matrices, for a pass of one token. */
EXPORT int64_t llm_spared(const Context *c) {
    int64_t spared = spared_by(&c->model.head, NULL);
    for (int i = 0; i < c->model.layers; i++) {
        Matrices all = matrices_of(c->layers + i);
        for (int k = 0; k < LAYER_MATRICES; k++) spared += spared_by(all.matrices[k], &c->layers[i].experts);
    }
    return spared;
}

/* `rows` rows of a block format, in that order or the one given, into packed blocks from row `first` on. */
EXPORT void llm_pack(int format, const uint8_t *stored, int64_t row_bytes, const int32_t *order, int rows, int groups,
                     int64_t first, uint8_t *near, uint8_t *rest) {
#define FOR_FORMAT(kind) \
    case kind: pack_rows(kind, stored, row_bytes, order, rows, groups, first, near, rest); break;
    switch (format) {
        FOR_FORMAT(Q4_0)
        FOR_FORMAT(Q4_1)
        FOR_FORMAT(Q4_K)
        FOR_FORMAT(Q5_0)
        FOR_FORMAT(Q8_0)
        FOR_FORMAT(IQ4_NL)
    }
#undef FOR_FORMAT
}

EXPORT const char *llm_isa(void) { return ISA; }

/* The version of this interface, and the sizes of its structures as this compiler lays them out. */
EXPORT int64_t llm_abi(int what) {
    const int64_t answers[] = {LLM_ABI, sizeof(Model), sizeof(Layer), sizeof(Step), sizeof(Segment), sizeof(Rotation),
                               sizeof(Choice)};
    return what >= 0 && what < (int)(sizeof answers / sizeof *answers) ? answers[what] : 0;
}
