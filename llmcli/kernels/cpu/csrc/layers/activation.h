/* Activation functions of feed-forward layers. Called by feed_forward.h and mixture_of_experts.h. */
#ifndef LLM_CPU_LAYERS_ACTIVATION_H
#define LLM_CPU_LAYERS_ACTIVATION_H

#include "../abi.h"
#include "../simd/exp.h"

/* The function, and the learned factors of XIELU. */
typedef struct {
    int kind;
    float above, below;
} Activation;

INLINE vf activated(Activation function, vf x) {
    switch (function.kind) {
    case SILU:
        return x * vsigmoid(x);
    case GELU_TANH:
        return 0.5f * x * (1.0f + vtanh(0.7978845608f * (x + 0.044715f * x * x * x)));
    case RELU:
        return vmax(broadcast(0), x);
    case RELU2:
        return vmax(broadcast(0), x) * vmax(broadcast(0), x);
    case QUICK_GELU:
        return x * vsigmoid(1.702f * x);
    case XIELU:
        return select_lanes(x > 0, function.above * x * x, function.below * (vexp(x) - 1.0f - x)) + 0.5f * x;
    default: {
        vf y;
        for (int i = 0; i < LANES; i++) y[i] = 0.5f * x[i] * (1 + erff(x[i] * 0.70710678f));
        return y;
    }
    }
}

/* act(gate) * up, or act(gate) without up. The last values are padded to a vector. */
static void activate(Activation function, const float *gate, const float *up, float *to, int n) {
    for (int i = 0; i < n; i += LANES) {
        float g[LANES] = {0}, u[LANES] = {0};
        int count = n - i < LANES ? n - i : LANES;
        vf y;
        if (count == LANES) {
            y = activated(function, load(gate + i));
            store(to + i, up ? y * load(up + i) : y);
            continue;
        }
        memcpy(g, gate + i, (size_t)count * sizeof *g);
        if (up) memcpy(u, up + i, (size_t)count * sizeof *u);
        y = activated(function, load(g));
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

#endif
