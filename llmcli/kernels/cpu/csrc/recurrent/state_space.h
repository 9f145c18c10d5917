/* A token of Mamba-2's recurrence in one head, as in model/recurrent/ssd.py. Called by recurrent_layer.h. */
#ifndef LLM_CPU_RECURRENT_STATE_SPACE_H
#define LLM_CPU_RECURRENT_STATE_SPACE_H

#include "../abi.h"
#include "../simd/vector.h"

/* Let the memory `before` (value_dim, key_dim) of a head fade, write `x` with the step size `step` in the direction `b`,
   and read it by `c`; adds `skip` times `x`. `memory`, which may be the same, gets the result. */
static void state_space(const RecurrentMixer *r, const float *before, float *memory, const float *x, const float *b,
                        const float *c, float step, float decay, float skip, float *to) {
    int size = r->key_dim;
    for (int p = 0; p < r->value_dim; p++) {
        const float *row = before + (int64_t)p * size;
        float *changed = memory + (int64_t)p * size, written = step * x[p], found = 0;
        vf sums = {0};
        int n = 0;
        for (; n + LANES <= size; n += LANES) {
            vf now = load(row + n) * decay + load(b + n) * written;
            store(changed + n, now);
            sums += now * load(c + n);
        }
        found = sum_lanes(sums);
        for (; n < size; n++) {
            changed[n] = decay * row[n] + written * b[n];
            found += changed[n] * c[n];
        }
        to[p] = found + skip * x[p];
    }
}

#endif
