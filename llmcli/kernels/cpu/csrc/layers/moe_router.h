/* The router of a mixture of experts, for one token: what `Router` of model/mixture_of_experts.py computes. Called by
   mixture_of_experts.h. */
#ifndef LLM_CPU_LAYERS_MOE_ROUTER_H
#define LLM_CPU_LAYERS_MOE_ROUTER_H

#include "../abi.h"
#include "../simd/vector.h"

/* The index of the greatest of n scores, the first of equal ones, which is then masked. NaN is greater than any number,
   as in torch. */
static int pop_greatest(float *scores, int n) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (scores[i] > scores[best] || (scores[i] != scores[i] && scores[best] == scores[best])) best = i;
    scores[best] = -INFINITY;
    return best;
}

/* Mask the experts outside the best groups. `scores` has space for three times the experts. */
static void drop_groups(const Experts *experts, float *scores) {
    int size = experts->count / experts->groups;
    float *work = scores + experts->count, *of_groups = work + experts->count;
    for (int g = 0; g < experts->groups; g++) {
        memcpy(work, scores + g * size, (size_t)size * sizeof *work);
        of_groups[g] = 0;
        for (int i = 0; i < (experts->best_two ? 2 : 1); i++)
            of_groups[g] += scores[g * size + pop_greatest(work, size)];
    }
    for (int g = 0; g < experts->groups; g++) work[g] = -INFINITY;
    for (int i = 0; i < experts->groups_chosen; i++) work[pop_greatest(of_groups, experts->groups)] = 0;
    for (int i = 0; i < experts->count; i++)
        if (work[i / size] < 0) scores[i] = -INFINITY;
}

/* The weight of the expert just chosen, with the logit `best`, in sparse mixing: a softmax over it and the experts not
   yet chosen whose logits are not much smaller. `left` has minus infinity for chosen experts. */
static float sparse_weight(const Experts *experts, const float *logits, const float *left, float best) {
    float total = 1;
    for (int i = 0; i < experts->count; i++) {
        float size = fabsf(logits[i]);
        if (left[i] == -INFINITY || (best - logits[i]) / (size > best ? size : best) > experts->mixing_range) continue;
        total += expf(logits[i] - best);
    }
    return 1 / total;
}

/* From the router's logits to the chosen experts and their weights. `scores` has space for three times the experts. */
static void route_token(const Experts *experts, float *logits, int32_t *chosen, float *weights, float *scores) {
    int n = experts->count, score = experts->score, sparse = score == BY_SPARSE_MIXING;
    int by_output = score == BY_SOFTMAX_OF_CHOSEN || score == BY_SIGMOID_OF_CHOSEN || sparse;
    float total = 0, best;
    if (experts->softcap > 0)
        for (int i = 0; i < n; i++) logits[i] = experts->softcap * tanhf(logits[i] / experts->softcap);
    best = logits[0];
    for (int i = 1; i < n; i++) best = logits[i] > best ? logits[i] : best;
    if (score == BY_SOFTMAX) {
        for (int i = 0; i < n; i++) total += logits[i] = expf(logits[i] - best);
        for (int i = 0; i < n; i++) logits[i] /= total;
    } else if (score == BY_SIGMOID) {
        for (int i = 0; i < n; i++) logits[i] = 1 / (1 + expf(-logits[i]));
    }
    memcpy(scores, logits, (size_t)n * sizeof *scores);
    if (!by_output) {
        if (experts->selection_bias)
            for (int i = 0; i < n; i++) scores[i] += experts->selection_bias[i];
        if (experts->groups_chosen < experts->groups) drop_groups(experts, scores);
    }
    total = 0;
    for (int i = 0; i < experts->chosen; i++) {
        chosen[i] = pop_greatest(scores, n);
        float w = logits[chosen[i]];
        if (score == BY_SOFTMAX_OF_CHOSEN) w = expf(w - best);
        if (score == BY_SIGMOID_OF_CHOSEN || score == BY_SIGMOID_OF_BIASED) w = 1 / (1 + expf(-w));
        if (sparse) w = sparse_weight(experts, logits, scores, w);
        weights[i] = w;
        total += w;
    }
    for (int i = 0; i < experts->chosen; i++) {
        if (score == BY_SOFTMAX_OF_CHOSEN) weights[i] /= total;
        else if (experts->normalized) weights[i] /= total + 1e-20f;
    }
    if (score == BY_SOFTMAX_OF_CHOSEN && experts->normalized) {
        total = 0;
        for (int i = 0; i < experts->chosen; i++) total += weights[i];
        for (int i = 0; i < experts->chosen; i++) weights[i] /= total + 1e-20f;
    }
    for (int i = 0; i < experts->chosen; i++) weights[i] *= experts->scale;
    if (experts->expert_scale)
        for (int i = 0; i < experts->chosen; i++) weights[i] *= experts->expert_scale[chosen[i]];
}

#endif
