/* The position of the greatest logit. Called by lm_head.h. */
#ifndef LLM_CPU_LOGITS_ARGMAX_H
#define LLM_CPU_LOGITS_ARGMAX_H

#include "../simd/vector.h"

/* The index of the maximum of n values, the first of equal ones; if there are NaN, of the first NaN. */
static int64_t argmax(const float *x, int64_t n) {
    int64_t i = 0;
    vf best = broadcast(-INFINITY);
    vi odd = {0};
    float most = -INFINITY;
    for (; i + LANES <= n; i += LANES) {
        vf v = load(x + i);
        odd |= v != v;
        best = vmax(best, v);
    }
    int wrong = sum_int32(odd) != 0;
    for (; i < n; i++) {
        wrong |= x[i] != x[i];
        if (x[i] > most) most = x[i];
    }
    if (max_lane(best) > most) most = max_lane(best);
    for (i = 0; i < n; i++)
        if (wrong ? x[i] != x[i] : x[i] == most) return i;
    return 0;
}

#endif
