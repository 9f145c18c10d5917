/* Functions of gates, step sizes and decays of recurrent layers. */
#ifndef LLM_CPU_RECURRENT_ACTIVATIONS_H
#define LLM_CPU_RECURRENT_ACTIVATIONS_H

#include "../simd/exp.h"

static float softplus(float x) { return fmaxf(x, 0) + log1pf(expf(-fabsf(x))); }

/* The same of a vector: log(1 + t) = 2 artanh(t / (2 + t)), whose series ends here at 1.5e-8. */
INLINE vf vsoftplus(vf x) {
    vf t = vexp(vmin(x, -x)), z = t / (2.0f + t), square = z * z, p = broadcast(1.0f / 13);
    p = p * square + 1.0f / 11;
    p = p * square + 1.0f / 9;
    p = p * square + 1.0f / 7;
    p = p * square + 1.0f / 5;
    p = p * square + 1.0f / 3;
    p = p * square + 1.0f;
    return vmax(broadcast(0), x) + 2.0f * z * p;
}

/* Multiply `to` by the sigmoid or SiLU of gates. */
static void apply_gate(float *to, const float *gate, int n, int sigmoid) {
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        vf factor = vsigmoid(load(gate + i));
        store(to + i, load(to + i) * (sigmoid ? factor : load(gate + i) * factor));
    }
    for (; i < n; i++) to[i] *= (sigmoid ? 1 : gate[i]) / (1 + expf(-gate[i]));
}

#endif
