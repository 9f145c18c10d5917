/* One step of a decoder-only transformer on a CPU: token ids in, logits out, keys and values into the caller's cache.

   The functions that llmcli/kernels/cpu calls, and the only file that is compiled: it includes the others. Computes
   what `Transformer.forward` of model/transformer.py computes, in float32 except for weights of 4 and 8 bits, which are
   multiplied with activations rounded to 16 bits by groups of 32. All state is in the Context. */
#ifdef __linux__
#define _GNU_SOURCE /* for sched_setaffinity */
#endif
#include <stdlib.h>

#include "forward.h"
#include "logits/sampling.h"
#include "repack/pack.h"
#include "runtime/buffers.h"
#include "step_bounds.h"
#include "text_steps.h"
#include "worker_threads.h"

#define EXPORT __attribute__((visibility("default")))

EXPORT void llm_free(Context *c) {
    if (!c) return;
    stop_threads(c);
    arena_free(&c->arena);
    free(c->cpus);
    free(c->workers);
    free(c->layers);
    free(c);
}

/* NULL if memory or threads are not available. The model and the cores are copied, the data they point to is not. */
EXPORT Context *llm_new(const Model *model, int threads, const int32_t *cpus, int cores, int processors) {
    Context *c = NULL;
    if (posix_memalign((void **)&c, 64, sizeof *c)) return NULL;
    memset(c, 0, sizeof *c);
    c->model = *model;
    c->threads = threads;
    c->layers = malloc(sizeof *c->layers * (size_t)model->layers);
    c->workers = calloc((size_t)threads, sizeof *c->workers);
    c->cpus = malloc(sizeof *c->cpus * (size_t)(cores + processors + 1));
    if (!c->layers || !c->workers || !c->cpus) {
        llm_free(c);
        return NULL;
    }
    memcpy(c->layers, model->layer, sizeof *c->layers * (size_t)model->layers);
    memcpy(c->cpus, cpus, sizeof *c->cpus * (size_t)(cores + processors));
    c->cores = (Cores){c->cpus, cores, processors};
    c->caller_core = -1;
    allocate_buffers(c);
    if (c->arena.failed || !start_threads(c)) {
        llm_free(c);
        return NULL;
    }
    return c;
}

/* 0, or which of the step's numbers is out of bounds. */
EXPORT int llm_step(Context *c, Pass *step) {
    int problem = check_step(c, step);
    if (problem) return problem;
    Affinity placed;
    pin_caller(c, &placed);
    run_pass(c, step);
    unpin_caller(&placed);
    return 0;
}

/* Generate up to `count` tokens from a step of one token into `chosen`: forward pass and sampling in turn, until an
   end-of-sequence token, an alarm, or -1 for logits that are not numbers. Returns how many tokens were generated, or
   below 0: which number is out of bounds. */
EXPORT int llm_generate(Context *c, Pass *step, const Choice *choice, int count, int32_t *chosen) {
    if (step->tokens != 1 || step->positions || count < 1) return -1;
    if (!is_sampled(&c->model, choice)) return -6;
    int problem = check_step(c, step), made = 0, ended = 0;
    if (!problem) problem = check_text(c, step->segments, step->start, count);
    if (problem) return -problem;
    Affinity placed;
    Pass now = *step;
    pin_caller(c, &placed);
    for (; made < count && !ended; made++) {
        run_pass(c, &now);
        double uniform = choice->temperature == 0 ? 0 : choice->uniforms[made];
        chosen[made] = sample_token(choice, now.logits, now.greatest, uniform);
        ended = is_end(choice, chosen[made]) || is_readable(choice->alarm);
        now.ids = chosen + made;
        now.start++;
        now.skipped++;
        now.continued = 1;
    }
    unpin_caller(&placed);
    return made;
}

/* The same for several texts, each with a choice and a limit of tokens: up to `count` steps, whose tokens are `chosen`
   (texts, count); `made` is how many tokens each text has got. A choice without a vocabulary leaves the token to the
   caller, who finds the logits of all texts after a single step. Returns 0, or which number is out of bounds. */
EXPORT int llm_generate_rows(Context *c, const Pass *step, const Choice *choices, const int32_t *limits, int count,
                             int32_t *chosen, int32_t *made) {
    int problem = check_texts(c, step, choices, limits, count);
    if (problem) return problem;
    Affinity placed;
    pin_caller(c, &placed);
    run_text_steps(c, step, choices, limits, count, chosen, made);
    unpin_caller(&placed);
    return 0;
}

/* Pack `rows` rows, in their order or the given one, into blocks from row `first` on. */
EXPORT void llm_pack(const Packing *packing, const uint8_t *stored, int64_t row_bytes, const int32_t *order, int rows,
                     int64_t first, uint8_t *blocks) {
    pack_rows(packing, stored, row_bytes, order, rows, first, blocks);
}

EXPORT const char *llm_isa(void) { return ISA; }

/* The version of this interface, and the sizes of its structures. */
EXPORT int64_t llm_abi(int what) {
    const int64_t answers[] = {LLM_ABI, sizeof(Model), sizeof(Layer), sizeof(Pass), sizeof(Segment), sizeof(Rotation),
                               sizeof(Choice), sizeof(Packing)};
    return what >= 0 && what < (int)(sizeof answers / sizeof *answers) ? answers[what] : 0;
}
