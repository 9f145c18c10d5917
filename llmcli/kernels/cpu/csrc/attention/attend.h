/* Attention of some tokens, for the query heads of one kv head, by the fastest of the implementations. Called by
   attention.h. */
#ifndef LLM_CPU_ATTENTION_ATTEND_H
#define LLM_CPU_ATTENTION_ATTEND_H

#include "bf16.h"
#include "blocked.h"
#include "decode.h"
#include "int8_dots.h"

/* Attention of `tokens` tokens from position `start`, for the query heads of one kv head, over the keys from `first` to
   `last`. `queries` (tokens, ld) points at the group's first head. Leaves mixed (tokens * group, value width), most and
   sums in the scratch memory. Prefetch continues `next` positions after the first of these keys or, if that is 0, at
   `cursor`. */
static void attend(const Model *model, const Layer *layer, const Segment *segment, int kv_head, const float *queries,
                   int64_t ld, int64_t start, int tokens, int64_t first, int64_t last, int64_t next,
                   PrefetchCursor *cursor, Scratch *s) {
    int group = layer->heads / layer->kv_heads, size = layer->key_dim, format = model->cache_format;
    QueryGroup m = {.layer = layer, .softcap = model->softcap, .start = start, .first = first, .last = last};
    m.slopes = layer->slopes ? layer->slopes + kv_head * group : NULL;
    m.rounded_biases = model->rounded_biases, m.scale = layer->scale;
    m.group = group, m.rows = tokens * group, m.size = size, m.width = (int)round_up(size, LANES);
    m.format = format, m.key_step = cache_row(format, size), m.value_step = cache_row(format, layer->value_dim);
    m.value_size = m.value_row = layer->value_dim, m.value_width = (int)round_up(layer->value_dim, LANES);
    for (int r = 0; r < m.rows; r++) {
        const float *q = queries + r / group * ld + r % group * size;
        for (int d = 0; d < size; d++) s->queries[r * m.width + d] = q[d] * layer->scale;
        s->most[r] = MASKED, s->sums[r] = 0;
    }
    memset(s->mixed, 0, (size_t)m.rows * m.value_width * sizeof(float));
    int64_t at = cache_offset(segment, cache_head(layer, kv_head), first);
    const char *keys = (const char *)segment->keys + at * m.key_step;
    const char *values = (const char *)segment->values + at * m.value_step;
    if (layer->latent.rank) values = keys, m.value_row = size, m.value_step = m.key_step;
#ifdef USE_DECODE
    if (can_attend_int8(&m)) {
        attend_int8(&m, keys, values, next, cursor, s);
        return;
    }
#endif
#ifdef USE_BF16
    if (format != FLOAT32 && size % 32 == 0 && m.value_size % 32 == 0) {
        attend_bf16(&m, keys, values, next, cursor, s);
        return;
    }
#endif
#ifdef USE_DECODE
    if (can_attend_decode(&m)) {
        attend_decode(&m, keys, values, format == BFLOAT16, next, cursor, s);
        return;
    }
#else
    (void)next;
    (void)cursor;
#endif
    attend_float(&m, keys, values, format == BFLOAT16, s);
}

#endif
