/* The causal convolution of a recurrent layer, as in model/recurrent/causal_conv.py. */
#ifndef LLM_CPU_RECURRENT_CONVOLUTION_H
#define LLM_CPU_RECURRENT_CONVOLUTION_H

#include "../abi.h"
#include "../simd/exp.h"

/* Convolve channels `first` to `last` of a token, whose inputs are `x`, with those of the tokens before it in `tail`
   (width - 1, channels), and apply SiLU, in a gated unit nothing. `x` joins the tail. */
static void convolve(const RecurrentMixer *r, float *tail, const float *x, float *to, int64_t first, int64_t last) {
    int64_t channels = r->channels;
    const float *newest = r->conv + (r->width - 1) * channels;
    for (int64_t i = first; i < last; i++) to[i] = 0;
    for (int j = 0; j < r->width - 1; j++) {
        const float *weight = r->conv + j * channels;
        float *row = tail + j * channels;
        const float *next = j + 1 < r->width - 1 ? row + channels : x;
        for (int64_t i = first; i < last; i++) {
            to[i] += weight[i] * row[i];
            row[i] = next[i];
        }
    }
    for (int64_t i = first; i < last; i++) to[i] += newest[i] * x[i];
    if (r->conv_bias)
        for (int64_t i = first; i < last; i++) to[i] += r->conv_bias[i];
    if (r->kind == GATED_UNIT) return;
    int64_t i = first;
    for (; i + LANES <= last; i += LANES) store(to + i, load(to + i) * vsigmoid(load(to + i)));
    for (; i < last; i++) to[i] /= 1 + expf(-to[i]);
}

#endif
