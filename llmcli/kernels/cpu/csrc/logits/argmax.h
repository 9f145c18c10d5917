/* The position of the greatest logit. */
#ifndef LLM_CPU_LOGITS_ARGMAX_H
#define LLM_CPU_LOGITS_ARGMAX_H

#include "../simd/vector.h"

/* The first of the greatest of n values, or of those that are not numbers. */
static int64_t first_greatest(const float *x, int64_t n) {
    int64_t i = 0;
    vf best = all(-INFINITY);
    vi odd = {0};
    float most = -INFINITY;
    for (; i + LANES <= n; i += LANES) {
        vf v = load(x + i);
        odd |= v != v;
        best = vmax(best, v);
    }
    int wrong = whole_sum(odd) != 0;
    for (; i < n; i++) {
        wrong |= x[i] != x[i];
        if (x[i] > most) most = x[i];
    }
    if (greatest(best) > most) most = greatest(best);
    for (i = 0; i < n; i++)
        if (wrong ? x[i] != x[i] : x[i] == most) return i;
    return 0;
}

#endif
