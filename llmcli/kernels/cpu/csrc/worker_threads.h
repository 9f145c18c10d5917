/* The threads of a decoder, and the core that each of them runs on. */
#ifndef LLM_CPU_WORKER_THREADS_H
#define LLM_CPU_WORKER_THREADS_H

#include "forward.h"
#include "runtime/context.h"

static void *work(void *argument) {
    Worker *w = argument;
    for (;;) {
        barrier_wait(&w->context->barrier, IDLE_PATIENCE, &w->onward);
        if (w->context->leaving) return NULL;
#ifdef __linux__
        const Context *c = w->context;
        if (c->first_core >= 0) stay_on(&c->cores, (c->first_core + w->number) % c->cores.cores, &w->core);
#endif
        run(w);
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
        if (i > 0 && pthread_create(&c->workers[i].thread, NULL, work, &c->workers[i])) return 0;
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

/* Let the caller stay where it is until the end of the call, and the others go elsewhere. */
static void take_cores(Context *c, Placed *placed) {
    placed->core = -1;
#ifdef __linux__
    int core = c->threads > 1 && c->threads <= c->cores.cores ? current_core(&c->cores) : -1;
    if (core >= 0 && sched_getaffinity(0, sizeof placed->before, &placed->before) != 0) core = -1;
    c->first_core = core;
    if (core >= 0) stay_on(&c->cores, core, &placed->core);
#else
    (void)c;
#endif
}

static void leave_cores(const Placed *placed) {
#ifdef __linux__
    if (placed->core >= 0) sched_setaffinity(0, sizeof placed->before, &placed->before);
#else
    (void)placed;
#endif
}

#endif
