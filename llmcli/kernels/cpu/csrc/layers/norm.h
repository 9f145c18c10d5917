/* RMS norm, layer norm and scaling of one token's values. Called by residual.h, attention/heads.h and forward.h. */
#ifndef LLM_CPU_LAYERS_NORM_H
#define LLM_CPU_LAYERS_NORM_H

#include "../abi.h"
#include "../simd/vector.h"

/* `head`: the row of the weights, in a norm with different weights for each head. */
static void normalize(const Norm *norm, const float *x, float *to, int n, int head) {
    if (norm->kind == NO_NORM) {
        if (to != x) memcpy(to, x, (size_t)n * sizeof *to);
        return;
    }
    if (norm->kind == SCALED) {
        for (int i = 0; i < n; i++) to[i] = x[i] * norm->factor;
        return;
    }
    int64_t at = norm->each_head ? (int64_t)head * n : 0;
    const float *weight = norm->weight ? norm->weight + at : NULL, *bias = norm->bias ? norm->bias + at : NULL;
    int i = 0;
    float mean = 0, squares;
    if (norm->kind == LAYER_NORM) {
        vf total = {0};
        for (; i + LANES <= n; i += LANES) total += load(x + i);
        mean = sum_lanes(total);
        for (; i < n; i++) mean += x[i];
        mean /= (float)n;
    }
    vf total = {0};
    for (i = 0; i + LANES <= n; i += LANES) {
        vf v = load(x + i) - mean;
        total += v * v;
    }
    squares = sum_lanes(total);
    for (; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
    float factor = 1 / sqrtf(squares / (float)n + norm->eps);
    for (i = 0; i < n; i++) {
        float v = (x[i] - mean) * factor;
        if (weight) v *= weight[i];
        to[i] = bias ? v + bias[i] : v;
    }
}

#endif
