/* Online softmax over blocks of keys: each query keeps its greatest score, the sum of exponentials and the mixture of
   values, and rescales the latter two whenever a greater score comes (Milakov & Gimelshein 2018, arXiv:1805.02867; Dao
   et al. 2022, arXiv:2205.14135). Called by decode.h, bf16.h and blocked.h. */
#ifndef LLM_CPU_ATTENTION_ONLINE_SOFTMAX_H
#define LLM_CPU_ATTENTION_ONLINE_SOFTMAX_H

#include "../abi.h"
#include "../simd/exp.h"
#include "../simd/half.h"
#include "visible_keys.h"

enum { KEY_BLOCK = 64, MOST_QUERIES = 64, PREFETCHED_FIRST = 8192 };

static const float MASKED = -1e30f; /* the score of a masked key */

/* Working memory of one thread; width is the greatest size of a key or value, rounded up to a vector. */
typedef struct {
    float *queries; /* (MOST_QUERIES, width), scaled */
    float *keys;    /* (width, KEY_BLOCK): transposed */
    float *values;  /* (KEY_BLOCK, width) */
    float *scores;  /* (MOST_QUERIES, KEY_BLOCK) */
    float *mixed;   /* (MOST_QUERIES, width) */
    float *unpacked_keys, *unpacked_values; /* (KEY_BLOCK, width): of a cache in 8 bits */
    float *most, *sums;
} Scratch;

/* The queries of one kv head, `group` for each token from position `start`, and the keys `first` to `last`. The sizes
   are those of a key and of a value; the widths are the sizes rounded up to a vector. */
typedef struct {
    const Layer *layer;
    const float *slopes; /* of the scores' biases by distance, for the heads of the group, or NULL */
    int rounded_biases;
    float softcap, scale;
    int64_t start, first, last;
    int group, rows, size, width, value_size, value_width;
    int value_row; /* values from one value in the cache to the next */
    int format;    /* of the cache */
    int64_t key_step, value_step; /* bytes from one key or value in the cache to the next */
} QueryGroup;

/* Turn the scores (n) of one query against a block of keys into exponentials, and update its greatest score, its sum
   and its mixture. */
static void online_softmax(float *scores, int n, int from, int to, float *most, float *total, float *mixed, int width) {
    if (from >= to) {
        memset(scores, 0, (size_t)n * sizeof *scores);
        return;
    }
    for (int i = 0; i < from; i++) scores[i] = MASKED;
    for (int i = to; i < n; i++) scores[i] = MASKED;
    vf best = load(scores);
    for (int i = LANES; i < n; i += LANES) best = vmax(best, load(scores + i));
    float now = max_lane(best);
    if (now > *most) {
        float factor = *most == MASKED ? 0 : expf(*most - now);
        *total *= factor;
        for (int d = 0; d < width; d += LANES) store(mixed + d, load(mixed + d) * factor);
        *most = now;
    }
    vf added = {0};
    for (int i = 0; i < n; i += LANES) {
        /* NaN is not masked, so that the sum becomes NaN too. */
        vf s = load(scores + i), p = select_lanes(s <= MASKED, broadcast(0), vexp(s - *most));
        added += p;
        store(scores + i, p);
    }
    *total += sum_lanes(added);
}

/* Add biases by distance (ALiBi) to the scores of a query at `position` against `count` keys from position `key`, as
   `SoftmaxAttention` of model/attention/scaled_dot_product.py does. */
static void add_biases(const QueryGroup *m, float *scores, int count, float slope, int64_t key, int64_t position) {
    if (m->rounded_biases)
        for (int i = 0; i < count; i++) scores[i] += m->scale * from_bf16(to_bf16(slope * (float)(key + i)));
    else
        for (int i = 0; i < count; i++) scores[i] += slope * (float)(key + i - position);
}

/* Online softmax of the scores (n) of the r-th query against `count` keys from position `key`. */
static void online_softmax_block(const QueryGroup *m, Scratch *s, int r, int n, int64_t key, int count) {
    int64_t position = m->start + r / m->group, from = first_visible(m->layer, position) - key, to = position + 1 - key;
    int first = from < 0 ? 0 : from > n ? n : (int)from, end = to < 0 ? 0 : to > count ? count : (int)to;
    float *scores = s->scores + r * KEY_BLOCK, cap = m->softcap;
    if (cap > 0)
        for (int i = 0; i < n; i += LANES) store(scores + i, cap * vtanh(load(scores + i) * (1 / cap)));
    if (m->slopes) add_biases(m, scores, count, m->slopes[r % m->group], key, position);
    online_softmax(scores, n, first, end, s->most + r, s->sums + r, s->mixed + (int64_t)r * m->value_width,
                   m->value_width);
}

#endif
