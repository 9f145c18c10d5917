/* A token of the gated delta rule in one head, as in model/recurrent/delta_rule.py. Called by recurrent_layer.h. */
#ifndef LLM_CPU_RECURRENT_DELTA_RULE_H
#define LLM_CPU_RECURRENT_DELTA_RULE_H

#include "../abi.h"
#include "../simd/exp.h"

static float softplus(float x) { return fmaxf(x, 0) + log1pf(expf(-fabsf(x))); }

/* 1 / the length of a vector; the number inside the root is that of model/recurrent/delta_net.py. */
static float inverse_length(const float *x, int n) {
    float squares = 0;
    for (int i = 0; i < n; i++) squares += x[i] * x[i];
    return 1 / sqrtf(squares + 1e-6f);
}

/* Let the memory `before` (key_dim, value_dim) of a head fade by `decay`, write the value `v` for the key `k` with the
   strength `beta`, and read it for the query `q`. `memory`, which may be the same, gets the result. `k` and `q` are
   multiplied by the factors given. `error` has space for a value. */
static void delta_rule(const RecurrentMixer *r, const float *before, float *memory, const float *q, float of_q,
                       const float *k, float of_k, const float *v, float decay, float beta, float *error, float *to) {
    int keys = r->key_dim, values = r->value_dim;
    memset(error, 0, (size_t)values * sizeof *error);
    memset(to, 0, (size_t)values * sizeof *to);
    float overlap = 0;
    for (int i = 0; i < keys; i++) {
        const float *row = before + (int64_t)i * values;
        float of_key = k[i] * of_k, of_query = q[i] * of_q;
        overlap += of_key * of_query;
        for (int j = 0; j < values; j++) {
            error[j] += of_key * row[j];
            to[j] += of_query * row[j];
        }
    }
    for (int j = 0; j < values; j++) {
        error[j] = beta * (v[j] - decay * error[j]);
        to[j] = decay * to[j] + overlap * error[j];
    }
    for (int i = 0; i < keys; i++) {
        const float *row = before + (int64_t)i * values;
        float *changed = memory + (int64_t)i * values, of_key = k[i] * of_k;
        for (int j = 0; j < values; j++) changed[j] = decay * row[j] + of_key * error[j];
    }
}

#endif
