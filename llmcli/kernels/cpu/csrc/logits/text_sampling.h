/* Sampling of the next token of each text in a pass, shared among the workers. Called by forward.h. */
#ifndef LLM_CPU_LOGITS_TEXT_SAMPLING_H
#define LLM_CPU_LOGITS_TEXT_SAMPLING_H

#include "argmax.h"
#include "sampling.h"
#include "../runtime/context.h"

static void sample_texts(Worker *w, const TextSampling *sampling) {
    const Context *c = w->context;
    int64_t vocabulary = c->model.vocabulary, first, last = share(w, c->step->tokens, &first);
    for (int64_t t = first; t < last; t++) {
        const Choice *choice = sampling->choices + sampling->texts[t];
        const float *logits = c->step->logits + t * vocabulary;
        if (choice->vocabulary == 0) continue;
        double uniform = choice->temperature == 0 ? 0 : choice->uniforms[sampling->number];
        sampling->tokens[t] = sample_token(choice, logits, argmax(logits, vocabulary), uniform);
    }
    sync_threads(w);
}

#endif
