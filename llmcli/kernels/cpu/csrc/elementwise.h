/* What is done to the values of one token: norms, activations, rotations. */
#ifndef LLM_CPU_ROWS_H
#define LLM_CPU_ROWS_H

#include "simd.h"
#include "abi.h"

/* `head` chooses the row of the weights of a norm that has one for each head. */
static void normalise(const Norm *norm, const float *x, float *to, int n, int head) {
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
        mean = sum(total);
        for (; i < n; i++) mean += x[i];
        mean /= (float)n;
    }
    vf total = {0};
    for (i = 0; i + LANES <= n; i += LANES) {
        vf v = load(x + i) - mean;
        total += v * v;
    }
    squares = sum(total);
    for (; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
    float factor = 1 / sqrtf(squares / (float)n + norm->eps);
    for (i = 0; i < n; i++) {
        float v = (x[i] - mean) * factor;
        if (weight) v *= weight[i];
        to[i] = bias ? v + bias[i] : v;
    }
}

INLINE vf activated(int kind, vf x) {
    switch (kind) {
    case SILU:
        return x * vsigmoid(x);
    case GELU_TANH:
        return 0.5f * x * (1.0f + vtanh(0.7978845608f * (x + 0.044715f * x * x * x)));
    case RELU:
        return vmax(all(0), x);
    case RELU2:
        return vmax(all(0), x) * vmax(all(0), x);
    case QUICK_GELU:
        return x * vsigmoid(1.702f * x);
    default: {
        vf y;
        for (int i = 0; i < LANES; i++) y[i] = 0.5f * x[i] * (1 + erff(x[i] * 0.70710678f));
        return y;
    }
    }
}

/* act(gate) * up, or act(gate) without up. The last few values take a vector of their own. */
static void activate(int kind, const float *gate, const float *up, float *to, int n) {
    for (int i = 0; i < n; i += LANES) {
        float g[LANES] = {0}, u[LANES] = {0};
        int count = n - i < LANES ? n - i : LANES;
        vf y;
        if (count == LANES) {
            y = activated(kind, load(gate + i));
            store(to + i, up ? y * load(up + i) : y);
            continue;
        }
        memcpy(g, gate + i, (size_t)count * sizeof *g);
        if (up) memcpy(u, up + i, (size_t)count * sizeof *u);
        y = activated(kind, load(g));
        store(g, up ? y * load(u) : y);
        memcpy(to + i, g, (size_t)count * sizeof *g);
    }
}

/* (clip(up) + 1) * min(gate, limit) * sigmoid(alpha * min(gate, limit)). */
static void activate_clamped(float alpha, float limit, const float *gate, const float *up, float *to, int n) {
    for (int i = 0; i < n; i++) {
        float g = gate[i] > limit ? limit : gate[i];
        float u = up[i] > limit ? limit : up[i] < -limit ? -limit : up[i];
        to[i] = (u + 1) * g / (1 + expf(-alpha * g));
    }
}

static void soft_cap(float *x, int64_t n, float scale, float cap) {
    int64_t i = 0;
    if (scale == 1 && cap == 0) return;
    for (; i + LANES <= n; i += LANES) {
        vf v = load(x + i) * scale;
        store(x + i, cap > 0 ? cap * vtanh(v * (1 / cap)) : v);
    }
    for (; i < n; i++) {
        float v = x[i] * scale;
        x[i] = cap > 0 ? cap * tanhf(v / cap) : v;
    }
}

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

/* Turn the pairs (j, j + half) of a head. */
static void rotate(float *x, const float *cos, const float *sin, int64_t half) {
    for (int64_t j = 0; j < half; j++) {
        float first = x[j], second = x[j + half];
        x[j] = first * cos[j] - second * sin[j];
        x[j + half] = second * cos[j] + first * sin[j];
    }
}

#endif
