/* The worker threads of a decoder, and the core that each of them is pinned to. Called by decoder.c. */
#ifndef LLM_CPU_WORKER_THREADS_H
#define LLM_CPU_WORKER_THREADS_H

#include "forward.h"
#include "runtime/context.h"

static void *worker_loop(void *argument) {
    Worker *w = argument;
    for (;;) {
        barrier_wait(&w->context->barrier, IDLE_PATIENCE, &w->cursor);
        if (w->context->leaving) return NULL;
#ifdef __linux__
        const Context *c = w->context;
        if (c->caller_core >= 0) pin_to_core(&c->cores, (c->caller_core + w->number) % c->cores.cores, &w->core);
#endif
        run_worker(w);
    }
}

/* Whether all threads could be started; the caller is the first of them. */
static int start_threads(Context *c) {
    c->barrier.threads = (unsigned)c->threads;
    pthread_mutex_init(&c->barrier.lock, NULL);
    pthread_cond_init(&c->barrier.changed, NULL);
    for (int i = 0; i < c->threads; i++) {
        c->workers[i].context = c;
        c->workers[i].number = i;
        c->workers[i].core = -1;
        if (i > 0 && pthread_create(&c->workers[i].thread, NULL, worker_loop, &c->workers[i])) return 0;
        c->started = i + 1;
    }
    return 1;
}

static void stop_threads(Context *c) {
    if (!c->started) return;
    c->leaving = 1;
    barrier_end(&c->barrier);
    for (int i = 1; i < c->started; i++) pthread_join(c->workers[i].thread, NULL);
    pthread_mutex_destroy(&c->barrier.lock);
    pthread_cond_destroy(&c->barrier.changed);
}

/* Pin the caller to its current core until the end of the call, and the workers to other cores. */
static void pin_caller(Context *c, Affinity *placed) {
    placed->core = -1;
#ifdef __linux__
    int core = c->threads > 1 && c->threads <= c->cores.cores ? current_core(&c->cores) : -1;
    if (core >= 0 && sched_getaffinity(0, sizeof placed->before, &placed->before) != 0) core = -1;
    c->caller_core = core;
    if (core >= 0) pin_to_core(&c->cores, core, &placed->core);
#else
    (void)c;
#endif
}

static void unpin_caller(const Affinity *placed) {
#ifdef __linux__
    if (placed->core >= 0) sched_setaffinity(0, sizeof placed->before, &placed->before);
#else
    (void)placed;
#endif
}

#endif
