/* The exponential function, tanh and sigmoid of a vector, for softmax, activations and soft caps. */
#ifndef LLM_CPU_SIMD_EXP_H
#define LLM_CPU_SIMD_EXP_H

#include "vector.h"

/* e^x to a few units in the last place; arguments are clamped to normal results. NaN stays NaN, which needs a selection
   because adding the exponent bits could make it a number. */
INLINE vf vexp(vf x) {
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number, found in the lower bits */
    x = vmin(broadcast(88.0f), vmax(broadcast(-87.0f), x));
    vf t = x * 1.44269504f + shift;
    vi n = (vi)t - (vi)broadcast(shift);
    t -= shift;
    vf r = x - t * 0.693359375f;
    r = r + t * 2.12194440e-4f;
    vf p = broadcast(1.0f / 5040);
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return select_lanes(x == x, (vf)((vi)p + (n << 23)), x);
}

/* e^x - 1 for x up to 0, without the cancellation near 0: there a series, which ends at 2e-9. */
INLINE vf vexpm1(vf x) {
    vf p = 1.0f + x / 9.0f;
    for (int i = 8; i > 1; i--) p = 1.0f + x * p / (float)i;
    return select_lanes(x > -0.5f, x * p, vexp(x) - 1.0f);
}

INLINE vf vtanh(vf x) { return 1.0f - 2.0f / (vexp(2.0f * x) + 1.0f); }
INLINE vf vsigmoid(vf x) { return 1.0f / (1.0f + vexp(-x)); }

#endif
