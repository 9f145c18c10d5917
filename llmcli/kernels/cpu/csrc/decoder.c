/* One step of a decoder-only transformer on a CPU: token ids in, logits out, keys and values into the caller's cache.

   The functions that llmcli/kernels/cpu calls, and the only file that is compiled: it includes the others. Computes what
   `Transformer.forward` of model/transformer.py computes, in float32 but for weights of 4 and 8 bits, which are multiplied
   with activations rounded to 16 bits by groups of 32. There is no state but the Context. */
#ifdef __linux__
#define _GNU_SOURCE /* for sched_setaffinity */
#endif
#include <poll.h>
#include <stdlib.h>

#include "forward.h"
#include "gguf_repack.h"
#include "logits/sampling.h"
#include "runtime/buffers.h"
#include "step_bounds.h"
#include "worker_threads.h"

#define EXPORT __attribute__((visibility("default")))

EXPORT void llm_free(Context *c) {
    if (!c) return;
    stop_threads(c);
    give_back(&c->memory);
    free(c->cpus);
    free(c->workers);
    free(c->layers);
    free(c);
}

/* NULL where there is no memory or no thread to be had. The model and the cores are copied, what the model points at is
   not. */
EXPORT Context *llm_new(const Model *model, int threads, const int32_t *cpus, int cores, int numbers) {
    Context *c = NULL;
    if (posix_memalign((void **)&c, 64, sizeof *c)) return NULL;
    memset(c, 0, sizeof *c);
    c->model = *model;
    c->threads = threads;
    c->layers = malloc(sizeof *c->layers * (size_t)model->layers);
    c->workers = calloc((size_t)threads, sizeof *c->workers);
    c->cpus = malloc(sizeof *c->cpus * (size_t)(cores + numbers + 1));
    if (!c->layers || !c->workers || !c->cpus) {
        llm_free(c);
        return NULL;
    }
    memcpy(c->layers, model->layer, sizeof *c->layers * (size_t)model->layers);
    memcpy(c->cpus, cpus, sizeof *c->cpus * (size_t)(cores + numbers));
    c->cores = (Cores){c->cpus, cores, numbers};
    c->first_core = -1;
    c->pause = 1;
    allocate(c);
    if (c->memory.failed || !start_threads(c)) {
        llm_free(c);
        return NULL;
    }
    return c;
}

/* 0, or which of the step's numbers is out of bounds. */
EXPORT int llm_step(Context *c, Step *step) {
    int problem = check_step(c, step);
    if (problem) return problem;
    Placed placed;
    take_cores(c, &placed);
    pass(c, step, 0);
    leave_cores(&placed);
    return 0;
}

static int can_be_read(int descriptor) {
    struct pollfd asked = {.fd = descriptor, .events = POLLIN};
    return descriptor >= 0 && poll(&asked, 1, 0) > 0;
}

/* From the step's only token on, `count` times at most: the pass of a token, and the choice of the next, into `chosen`,
   until one ends the text or, being -1, cannot be chosen, or there is an alarm. How many were chosen, or below 0: which
   number is out of bounds. */
EXPORT int llm_go_on(Context *c, Step *step, const Choice *choice, int count, int32_t *chosen) {
    const Model *m = &c->model;
    if (step->tokens != 1 || step->positions || count < 1) return -1;
    if (choice->vocabulary < 1 || choice->vocabulary > m->vocabulary) return -6;
    if (choice->temperature != 0 && (choice->top_k < 1 || choice->top_k > MOST_CANDIDATES)) return -6;
    int problem = check_step(c, step), made = 0, ended = 0;
    if (!problem) problem = check_text(c, step->segments, step->start, count);
    if (problem) return -problem;
    Placed placed;
    Step now = *step;
    take_cores(c, &placed);
    for (; made < count && !ended; made++) {
        if (choice->temperature == 0)
            greedy_pass(c, &now, choice->vocabulary);
        else
            pass(c, &now, 0);
        double uniform = choice->temperature == 0 ? 0 : choice->uniforms[made];
        chosen[made] = choose_token(choice, now.logits, now.greatest, uniform);
        ended = is_end(choice, chosen[made]) || can_be_read(choice->alarm);
        now.ids = chosen + made;
        now.start++;
        now.skipped++;
    }
    leave_cores(&placed);
    step->unread = now.unread;
    return made;
}

/* Bytes of the numbers of a matrix that a pass leaves unread since their bases are known, less what fills the last line
   of a row block; of a stack of experts as much as is chosen of it. */
static int64_t spared_by(const Matrix *m, const Experts *experts) {
    int groups = groups_of(m);
    int64_t count = (int64_t)m->count * row_blocks(m), known = 0;
    if (!m->bases) return 0;
    for (int64_t i = 0; i < count; i++) known += m->bases[i] > NO_BASES;
    int64_t filling = number_bytes(PACKED4, groups) - groups * NUMBER_BYTES;
    int64_t spared = known * rest_bytes(PACKED4, groups) - count * filling;
    return m->count > 1 ? spared * experts->chosen / experts->count : spared;
}

/* The same of all matrices, for a pass of one token. */
EXPORT int64_t llm_spared(const Context *c) {
    int64_t spared = spared_by(&c->model.head, NULL);
    for (int i = 0; i < c->model.layers; i++) {
        Matrices all = matrices_of(c->layers + i);
        for (int k = 0; k < LAYER_MATRICES; k++) spared += spared_by(all.matrices[k], &c->layers[i].experts);
    }
    return spared;
}

/* `rows` rows of a block format, in that order or the one given, into packed blocks from row `first` on. */
EXPORT void llm_pack(int format, const uint8_t *stored, int64_t row_bytes, const int32_t *order, int rows, int groups,
                     int64_t first, uint8_t *near, uint8_t *rest) {
#define FOR_FORMAT(kind) \
    case kind: pack_rows(kind, stored, row_bytes, order, rows, groups, first, near, rest); break;
    switch (format) {
        FOR_FORMAT(Q4_0)
        FOR_FORMAT(Q4_1)
        FOR_FORMAT(Q4_K)
        FOR_FORMAT(Q5_0)
        FOR_FORMAT(Q8_0)
        FOR_FORMAT(IQ4_NL)
    }
#undef FOR_FORMAT
}

EXPORT const char *llm_isa(void) { return ISA; }

/* The version of this interface, and the sizes of its structures as this compiler lays them out. */
EXPORT int64_t llm_abi(int what) {
    const int64_t answers[] = {LLM_ABI, sizeof(Model), sizeof(Layer), sizeof(Step), sizeof(Segment), sizeof(Rotation),
                               sizeof(Choice)};
    return what >= 0 && what < (int)(sizeof answers / sizeof *answers) ? answers[what] : 0;
}
