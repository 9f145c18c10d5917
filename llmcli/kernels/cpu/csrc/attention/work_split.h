/* How the attention of a layer is divided among threads: by kv head, by tiles of tokens, and by parts of the keys.
   Called by attention.h. */
#ifndef LLM_CPU_ATTENTION_WORK_SPLIT_H
#define LLM_CPU_ATTENTION_WORK_SPLIT_H

#include "visible_keys.h"
#include "../runtime/context.h"

static int common_divisor(int a, int b) { return b ? common_divisor(b, a % b) : a; }

typedef struct {
    int tile, tiles, splits; /* tokens per tile, number of tiles, and number of parts of the keys */
} AttentionPlan;

/* Heads and tiles of tokens are shared among the workers; if there are too few of them, the keys are split as well. */
static AttentionPlan attention_plan(const Context *c, const Layer *layer, int64_t start, int tokens) {
    int group = layer->heads / layer->kv_heads, tile = MOST_QUERIES / group;
    AttentionPlan plan = {.tile = tile < 1 ? 1 : tile > TILE ? TILE : tile, .splits = 1};
    plan.tiles = (tokens + plan.tile - 1) / plan.tile;
    int items = layer->kv_heads * plan.tiles;
    int64_t keys = start + tokens - first_visible(layer, start);
    if (tokens <= TILE && items < 4 * c->threads) {
        plan.splits = c->threads / common_divisor(items, c->threads);
        if (plan.splits > keys / KEY_BLOCK) plan.splits = (int)(keys / KEY_BLOCK);
        if (plan.splits > c->most_splits) plan.splits = c->most_splits;
        if (plan.splits < 1) plan.splits = 1;
    }
    return plan;
}

/* One work item: a kv head, some tokens of a sequence, and some of the keys they see. */
typedef struct {
    int split, head, token, count;
    int64_t start, from, to;
} AttentionItem;

static AttentionItem attention_item(const Context *c, const Layer *layer, AttentionPlan plan, int first_token, int own,
                                    int number) {
    int heads = layer->kv_heads, place = number / plan.splits / heads * plan.tile;
    AttentionItem item = {.split = number % plan.splits, .head = number / plan.splits % heads};
    item.token = first_token + place;
    item.count = own - place < plan.tile ? own - place : plan.tile;
    item.start = position_of(c->step, item.token);
    int64_t first = first_visible(layer, item.start), keys = item.start + item.count - first;
    item.from = first + keys * item.split / plan.splits;
    item.to = first + keys * (item.split + 1) / plan.splits;
    return item;
}

/* The plan for the sequence of a token: the same as if that sequence were alone, because the split decides the last
   bits of sums. */
static AttentionPlan plan_of(const Context *c, const Layer *layer, int token) {
    const Pass *step = c->step;
    return step->positions ? attention_plan(c, layer, step->positions[token], 1)
                           : attention_plan(c, layer, step->start, step->tokens);
}

#endif
