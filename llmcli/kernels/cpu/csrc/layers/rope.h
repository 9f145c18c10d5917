/* Rotary position embedding of one head. Called by attention/heads.h. */
#ifndef LLM_CPU_LAYERS_ROPE_H
#define LLM_CPU_LAYERS_ROPE_H

#include <stdint.h>

/* Rotate the pairs (j, j + half) of a head. */
static void rotate(float *x, const float *cos, const float *sin, int64_t half) {
    for (int64_t j = 0; j < half; j++) {
        float first = x[j], second = x[j + half];
        x[j] = first * cos[j] - second * sin[j];
        x[j + half] = second * cos[j] + first * sin[j];
    }
}

#endif
