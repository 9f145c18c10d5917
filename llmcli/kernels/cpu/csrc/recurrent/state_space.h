/* A token of Mamba-2's recurrence in one head, as in model/recurrent/ssd.py. Called by recurrent_layer.h. */
#ifndef LLM_CPU_RECURRENT_STATE_SPACE_H
#define LLM_CPU_RECURRENT_STATE_SPACE_H

#include "../abi.h"
#include "../simd/vector.h"

/* Let the memory (value_dim, key_dim) of a head fade, write `x` with the step size `step` in the direction `b`, and
   read it by `c`; adds `skip` times `x`. */
static void state_space(const RecurrentMixer *r, float *memory, const float *x, const float *b, const float *c, float step,
                        float decay, float skip, float *to) {
    int size = r->key_dim;
    for (int p = 0; p < r->value_dim; p++) {
        float *row = memory + (int64_t)p * size, written = step * x[p], found = 0;
        vf sums = {0};
        int n = 0;
        for (; n + LANES <= size; n += LANES) {
            vf now = load(row + n) * decay + load(b + n) * written;
            store(row + n, now);
            sums += now * load(c + n);
        }
        found = sum_lanes(sums);
        for (; n < size; n++) {
            row[n] = decay * row[n] + written * b[n];
            found += row[n] * c[n];
        }
        to[p] = found + skip * x[p];
    }
}

#endif
