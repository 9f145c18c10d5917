/* Mamba-2 around its recurrence: what model/recurrent/mamba2.py computes. Called by recurrent_layer.h. */
#ifndef LLM_CPU_RECURRENT_MAMBA2_H
#define LLM_CPU_RECURRENT_MAMBA2_H

#include "activations.h"
#include "memory.h"
#include "state_space.h"
#include "../layers/norm.h"

/* Leaves the output of a head in `to`, gated unless it is normalized first. */
static void state_space_head(const Context *c, const RecurrentMixer *r, const Segment *segment, int head, int token,
                             float *to) {
    int inner = r->heads * r->value_dim, group = head / (r->heads / r->groups);
    const float *mixed = c->convolved + token * c->ld_convolved, *x = mixed + head * r->value_dim;
    const float *b = mixed + inner + group * r->key_dim, *read = b + r->groups * r->key_dim;
    const float *projected = c->projected + token * c->ld_projected, *gate = projected + head * r->value_dim;
    float step = softplus(projected[inner + r->channels + head] + r->step_bias[head]);
    /* Unlike fminf and fmaxf, this keeps NaN, so that damaged weights are noticed. */
    step = step < r->min_step ? r->min_step : step > r->max_step ? r->max_step : step;
    state_space(r, memory_before(c, r, segment, head, token), memory_of(r, segment, head), x, b, read, step,
                expf(step * r->rate[head]), r->skip[head], to);
    if (!r->norm_first) apply_gate(to, gate, r->value_dim, 0);
}

/* Normalize the output of all heads of a token (inner), group by group. */
static void normalize_groups(const Context *c, const RecurrentMixer *r, float *row, int inner, int token) {
    int size = inner / r->groups;
    Norm norm = r->norm;
    for (int g = 0; g < r->groups; g++, norm.weight += size)
        normalize(&norm, row + (int64_t)g * size, row + (int64_t)g * size, size, 0);
    if (r->norm_first) apply_gate(row, c->projected + token * c->ld_projected, inner, 0);
}

#endif
