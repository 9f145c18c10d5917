/* How the attention of a layer is divided among threads: by kv head, by tiles of tokens, and by parts of the keys. */
#ifndef LLM_CPU_ATTENTION_WORK_SPLIT_H
#define LLM_CPU_ATTENTION_WORK_SPLIT_H

#include "visible_keys.h"
#include "../runtime/context.h"

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

#endif
