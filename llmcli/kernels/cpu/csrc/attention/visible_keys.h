/* Which keys a token attends to, and where they are in the cache. Called by all files here and by step_bounds.h. */
#ifndef LLM_CPU_ATTENTION_VISIBLE_KEYS_H
#define LLM_CPU_ATTENTION_VISIBLE_KEYS_H

#include "../abi.h"

/* How many keys or values come before that of a head and position in the cache. */
static inline int64_t cache_offset(const Segment *segment, int head, int64_t position) {
    return (int64_t)head * segment->size + position - segment->first;
}

/* The head of the cache that holds the keys of a layer's kv head. */
static inline int cache_head(const Layer *layer, int kv_head) { return layer->latent.rank ? 0 : kv_head; }

static int64_t first_visible(const Layer *layer, int64_t position) {
    if (layer->window > 0) return position + 1 > layer->window ? position + 1 - layer->window : 0;
    return layer->chunk > 0 ? position / layer->chunk * layer->chunk : 0;
}

#endif
