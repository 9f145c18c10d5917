/* Softmax attention by blocks of keys: a query keeps the greatest score so far, the sum of its exponentials and the
   mixture of values, and corrects the latter two whenever a greater score comes (Milakov & Gimelshein 2018,
   arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135). */
#ifndef LLM_CPU_ATTENTION_ONLINE_SOFTMAX_H
#define LLM_CPU_ATTENTION_ONLINE_SOFTMAX_H

#include "../abi.h"
#include "../simd/exp.h"
#include "visible_keys.h"

enum { KEYS = 64, MOST_QUERIES = 64, ASKED_FIRST = 8192 };

static const float NEVER = -1e30f; /* the score of what a query does not see */

/* Working memory of one thread; width is the head's size rounded up to a vector. */
typedef struct {
    float *queries; /* (MOST_QUERIES, width), scaled */
    float *keys;    /* (width, KEYS): transposed */
    float *values;  /* (KEYS, width) */
    float *scores;  /* (MOST_QUERIES, KEYS) */
    float *mixed;   /* (MOST_QUERIES, width) */
    float *most, *sums;
} Scratch;

/* The queries of one kv head, `group` for each of some tokens from position `start` on, and the keys they meet. */
typedef struct {
    const Layer *layer;
    float softcap;
    int64_t start, first, last;
    int group, rows, size, width;
} Meeting;

/* Scores (n) of one query against a block of keys become exponentials; the greatest score and the sum are brought up to
   date, and what was mixed so far is corrected. */
static void take_in(float *scores, int n, int from, int to, float cap, float *most, float *total, float *mixed,
                    int width) {
    if (from >= to) {
        memset(scores, 0, (size_t)n * sizeof *scores);
        return;
    }
    if (cap > 0)
        for (int i = 0; i < n; i += LANES) store(scores + i, cap * vtanh(load(scores + i) * (1 / cap)));
    for (int i = 0; i < from; i++) scores[i] = NEVER;
    for (int i = to; i < n; i++) scores[i] = NEVER;
    vf best = load(scores);
    for (int i = LANES; i < n; i += LANES) best = vmax(best, load(scores + i));
    float now = greatest(best);
    if (now > *most) {
        float factor = *most == NEVER ? 0 : expf(*most - now);
        *total *= factor;
        for (int d = 0; d < width; d += LANES) store(mixed + d, load(mixed + d) * factor);
        *most = now;
    }
    vf added = {0};
    for (int i = 0; i < n; i += LANES) {
        /* NaN is not left out: then the sum is NaN as well. */
        vf s = load(scores + i), p = pick(s <= NEVER, all(0), vexp(s - *most));
        added += p;
        store(scores + i, p);
    }
    *total += sum(added);
}

/* The r-th query of a meeting takes in its scores (n) of the `count` keys from position `key` on. */
static void take_in_block(const Meeting *m, Scratch *s, int r, int n, int64_t key, int count) {
    int64_t position = m->start + r / m->group, from = first_visible(m->layer, position) - key, to = position + 1 - key;
    take_in(s->scores + r * KEYS, n, from < 0 ? 0 : from > n ? n : (int)from, to < 0 ? 0 : to > count ? count : (int)to,
            m->softcap, s->most + r, s->sums + r, s->mixed + (int64_t)r * m->width, m->width);
}

#endif
