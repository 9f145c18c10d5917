/* Sampling the next token from its logits: what `Sampler` of engine/sampling/sampler.py does for small top-k. Called by
   decoder.c. */
#ifndef LLM_CPU_LOGITS_SAMPLING_H
#define LLM_CPU_LOGITS_SAMPLING_H

#include <math.h>
#include <stdlib.h>

#include "../abi.h"
#include "../simd/vector.h"

enum { MOST_CANDIDATES = 1024 };

typedef struct {
    float score;
    int32_t id;
} Candidate;

static int is_worse(Candidate a, Candidate b) { return a.score < b.score || (a.score == b.score && a.id > b.id); }

/* Restore the heap order below `root`; the worst candidate is at the top. */
static void sift_down(Candidate *heap, int count, int root) {
    Candidate sinking = heap[root];
    for (int child; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count && is_worse(heap[child + 1], heap[child])) child++;
        if (!is_worse(heap[child], sinking)) break;
        heap[root] = heap[child];
    }
    heap[root] = sinking;
}

/* The `count` greatest of `n` logits without NaN, best first; of equal ones the first. */
static void top_k(const float *logits, int n, Candidate *best, int count) {
    enum { PIECE = 4 * LANES };
    for (int i = 0; i < count; i++) best[i] = (Candidate){logits[i], i};
    for (int root = count / 2 - 1; root >= 0; root--) sift_down(best, count, root);
    for (int i = count; i < n;) {
        int end = n - i < PIECE ? n : i + PIECE;
        /* Most pieces have no candidate. */
        if (end - i == PIECE) {
            const float *at = logits + i;
            vf most = vmax(vmax(load(at), load(at + LANES)), vmax(load(at + 2 * LANES), load(at + 3 * LANES)));
            if (max_lane(most) <= best[0].score) i = end;
        }
        for (; i < end; i++) {
            if (logits[i] <= best[0].score) continue;
            best[0] = (Candidate){logits[i], i};
            sift_down(best, count, 0);
        }
    }
    for (int left = count - 1; left > 0; left--) {
        Candidate worst = best[0];
        best[0] = best[left];
        best[left] = worst;
        sift_down(best, left, 0);
    }
}

/* Keep the first `count` probabilities, divided by their sum. */
static int renormalize(double *probabilities, int count) {
    long double total = 0;
    for (int i = 0; i < count; i++) total += probabilities[i];
    for (int i = 0; i < count; i++) probabilities[i] /= (double)total;
    return count;
}

typedef struct {
    int32_t id;
    float probability;
} TokenProbability;

static int by_id(const void *a, const void *b) {
    int32_t one = ((const TokenProbability *)a)->id, other = ((const TokenProbability *)b)->id;
    return (one > other) - (one < other);
}

/* Sample a token with a uniform number from 0 to 1. `greatest` is the position of the greatest of all logits. -1: that
   is not a finite number. */
static int32_t sample_token(const Choice *choice, const float *logits, int64_t greatest, double uniform) {
    Candidate best[MOST_CANDIDATES];
    double probabilities[MOST_CANDIDATES], reached = 0, sum = 0;
    TokenProbability weighted[MOST_CANDIDATES];
    /* A padded vocabulary ends with tokens that must not be sampled; all logits before the first maximum are less. */
    if (greatest < choice->vocabulary) {
        if (!isfinite(logits[greatest])) return -1;
        if (choice->temperature == 0) return (int32_t)greatest;
    }
    int count = choice->temperature == 0 ? 1 : choice->top_k, kept = 0, place = 0;
    if (count > choice->vocabulary) count = choice->vocabulary;
    best[0] = (Candidate){0};
    top_k(logits, choice->vocabulary, best, count);
    if (!isfinite(best[0].score)) return -1;
    if (count == 1) return best[0].id;
    for (int i = 0; i < count; i++)
        probabilities[i] = exp(((double)best[i].score - (double)best[0].score) / choice->temperature);
    renormalize(probabilities, count);
    if (choice->top_p < 1) {
        for (; kept < count && reached < choice->top_p; kept++) reached += probabilities[kept];
        count = renormalize(probabilities, kept);
    }
    if (choice->min_p > 0) {
        double least = choice->min_p * probabilities[0];
        for (kept = 0; kept < count && probabilities[kept] >= least;) kept++;
        count = renormalize(probabilities, kept);
    }
    /* In the order of the vocabulary and in float32, so that a draw is the same from top-k as from the whole
       vocabulary. */
    for (int i = 0; i < count; i++) weighted[i] = (TokenProbability){best[i].id, (float)probabilities[i]};
    qsort(weighted, (size_t)count, sizeof *weighted, by_id);
    for (int i = 0; i < count; i++) sum += weighted[i].probability;
    for (reached = weighted[0].probability; place + 1 < count && reached <= uniform * sum;)
        reached += weighted[++place].probability;
    return weighted[place].id;
}

static int is_end(const Choice *choice, int32_t id) {
    for (int i = 0; i < choice->end_count; i++)
        if (choice->ends[i] == id) return 1;
    return id < 0;
}

#endif
