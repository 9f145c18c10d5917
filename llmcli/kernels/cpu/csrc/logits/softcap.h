/* Scaling and soft cap of logits. Called by lm_head.h. */
#ifndef LLM_CPU_LOGITS_SOFTCAP_H
#define LLM_CPU_LOGITS_SOFTCAP_H

#include "../simd/exp.h"

static void soft_cap_logits(float *x, int64_t n, float scale, float cap) {
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

#endif
