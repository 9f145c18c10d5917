/* Several steps of a batch of texts in one call: each step reads one token of every text and samples the next one. A text
   that ends, or reaches its limit, is left out of the steps after that. Called by decoder.c. */
#ifndef LLM_CPU_TEXT_STEPS_H
#define LLM_CPU_TEXT_STEPS_H

#include <poll.h>

#include "forward.h"
#include "step_bounds.h"

static int is_readable(int descriptor) {
    struct pollfd asked = {.fd = descriptor, .events = POLLIN};
    return descriptor >= 0 && poll(&asked, 1, 0) > 0;
}

/* Whether tokens can be sampled as `choice` says. */
static int is_sampled(const Model *m, const Choice *choice) {
    if (choice->vocabulary < 1 || choice->vocabulary > m->vocabulary) return 0;
    return choice->temperature == 0 || (choice->top_k >= 1 && choice->top_k <= MOST_CANDIDATES);
}

/* 0, or what is out of bounds if every text gets as many tokens as its limit. Logits are only kept of a single step. */
static int check_texts(const Context *c, const Pass *step, const Choice *choices, const int32_t *limits, int count) {
    if (!step->positions || step->only_last || count < 1) return 1;
    int problem = check_step(c, step);
    for (int t = 0; t < step->tokens && !problem; t++) {
        if (limits[t] < 1 || limits[t] > count) return 1;
        if (choices[t].vocabulary == 0 ? count > 1 : !is_sampled(&c->model, choices + t)) return 6;
        problem = check_text(c, step->segments + (int64_t)t * c->model.layers, step->positions[t], limits[t]);
    }
    return problem;
}

/* The texts of the next step. */
typedef struct {
    Pass pass;
    TextSampling sampling;
    int32_t texts[MOST_TEXTS]; /* which of the call they are */
    int32_t ids[MOST_TEXTS], rotated[MOST_TEXTS], tokens[MOST_TEXTS];
    int64_t positions[MOST_TEXTS];
} TextSteps;

/* Continue text `from` of a step as text `to` of the next one; `count` rotations of each text follow each other. */
static void continue_text(Context *c, TextSteps *now, int from, int to, int count) {
    int64_t layers = c->model.layers;
    int number = now->sampling.number + 1, text = now->texts[from];
    now->texts[to] = text;
    now->ids[to] = now->tokens[from];
    now->positions[to] = now->positions[from] + 1;
    now->rotated[to] = text * count + number;
    if (from != to) memcpy(c->text_segments + to * layers, c->text_segments + from * layers,
                           (size_t)layers * sizeof(Segment));
}

/* `chosen` (texts, count) and `made` (texts) are the output. */
static void run_text_steps(Context *c, const Pass *step, const Choice *choices, const int32_t *limits, int count,
                           int32_t *chosen, int32_t *made) {
    TextSteps now = {.pass = *step};
    int texts = step->tokens, stopped = 0;
    for (int t = 0; t < texts; t++) {
        now.texts[t] = t, now.ids[t] = step->ids[t], now.positions[t] = step->positions[t];
        now.rotated[t] = t * count;
    }
    memcpy(c->text_segments, step->segments, (size_t)texts * (size_t)c->model.layers * sizeof(Segment));
    now.pass.ids = now.ids, now.pass.positions = now.positions, now.pass.rotated = now.rotated;
    now.pass.segments = c->text_segments;
    now.sampling = (TextSampling){choices, now.texts, now.tokens, 0};
    c->sampling = &now.sampling;
    while (texts > 0 && !stopped) {
        int left = 0;
        now.pass.tokens = texts;
        run_pass(c, &now.pass);
        stopped = is_readable(choices->alarm);
        for (int t = 0; t < texts; t++) {
            int text = now.texts[t];
            made[text] = now.sampling.number + 1;
            if (choices[text].vocabulary == 0) continue;
            chosen[text * count + now.sampling.number] = now.tokens[t];
            if (is_end(choices + text, now.tokens[t]) || made[text] == limits[text]) continue;
            continue_text(c, &now, t, left++, count);
        }
        texts = left;
        now.sampling.number++;
        now.pass.continued = 1;
    }
    c->sampling = NULL;
}

#endif
