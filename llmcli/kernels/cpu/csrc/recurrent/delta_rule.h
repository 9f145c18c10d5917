/* A token of the gated delta rule in one head, as in model/recurrent/delta_rule.py. Called by delta_net.h. */
#ifndef LLM_CPU_RECURRENT_DELTA_RULE_H
#define LLM_CPU_RECURRENT_DELTA_RULE_H

#include "../abi.h"
#include "../simd/vector.h"

/* Of a head: the factor by which each row of the memory fades, and the token's key and query (key_dim). */
typedef struct {
    float *decay, *key, *query;
    float overlap; /* of key and query */
} DeltaInputs;

/* Columns `first` to `first` + vectors * LANES of the rule. What the memory holds for key and query is read before it
   fades: the factors are applied to these instead. */
INLINE void delta_columns(const RecurrentMixer *r, const float *before, float *memory, const DeltaInputs *in,
                          const float *v, float beta, float *to, int first, int vectors) {
    vf error[4], found[4];
    for (int n = 0; n < vectors; n++) error[n] = found[n] = (vf){0};
    for (int i = 0; i < r->key_dim; i++) {
        const float *row = before + (int64_t)i * r->value_dim + first;
        float of_key = in->key[i] * in->decay[i], of_query = in->query[i] * in->decay[i];
        for (int n = 0; n < vectors; n++) {
            vf now = load(row + n * LANES);
            error[n] += of_key * now;
            found[n] += of_query * now;
        }
    }
    for (int n = 0; n < vectors; n++) {
        error[n] = beta * (load(v + first + n * LANES) - error[n]);
        store(to + first + n * LANES, found[n] + in->overlap * error[n]);
    }
    for (int i = 0; i < r->key_dim; i++) {
        const float *row = before + (int64_t)i * r->value_dim + first;
        float *changed = memory + (int64_t)i * r->value_dim + first, decay = in->decay[i], key = in->key[i];
        for (int n = 0; n < vectors; n++)
            store(changed + n * LANES, decay * load(row + n * LANES) + key * error[n]);
    }
}

/* Let the memory `before` (key_dim, value_dim) of a head fade, write the value `v` for the key with the strength `beta`,
   and read it for the query. `memory`, which may be the same, gets the result. */
static void delta_rule(const RecurrentMixer *r, const float *before, float *memory, const DeltaInputs *in,
                       const float *v, float beta, float *to) {
    int j = 0;
    for (; j + 4 * LANES <= r->value_dim; j += 4 * LANES) delta_columns(r, before, memory, in, v, beta, to, j, 4);
    for (; j + LANES <= r->value_dim; j += LANES) delta_columns(r, before, memory, in, v, beta, to, j, 1);
    for (; j < r->value_dim; j++) {
        float error = 0, found = 0;
        for (int i = 0; i < r->key_dim; i++) {
            float faded = in->decay[i] * before[(int64_t)i * r->value_dim + j];
            error += in->key[i] * faded;
            found += in->query[i] * faded;
        }
        error = beta * (v[j] - error);
        to[j] = found + in->overlap * error;
        for (int i = 0; i < r->key_dim; i++) {
            int64_t at = (int64_t)i * r->value_dim + j;
            memory[at] = in->decay[i] * before[at] + in->key[i] * error;
        }
    }
}

#endif
