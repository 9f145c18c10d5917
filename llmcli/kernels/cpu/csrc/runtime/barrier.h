/* The barrier at which the threads of one call wait for each other, and sleep between calls. Called by context.h and
   worker_threads.h. */
#ifndef LLM_CPU_RUNTIME_BARRIER_H
#define LLM_CPU_RUNTIME_BARRIER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "prefetch.h"
#include "../simd/vector.h"

#if defined(__x86_64__)
#define PAUSE() _mm_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ volatile("yield")
#else
#define PAUSE() ((void)0)
#endif

/* How long a thread spins before it sleeps, in pauses of about 20 ns: a fraction of a millisecond within a call, and
   about as long as sampling takes after it. */
enum { PATIENCE = 20000, IDLE_PATIENCE = 20000 };

/* The barrier opens when as many arrivals are counted as there are threads, for each time it was passed. With a single
   growing counter the last thread writes one cache line and the others read it; cores may be far apart. */
typedef struct {
    _Alignas(64) atomic_ullong arrived;
    _Alignas(64) atomic_uint sleepers;
    unsigned threads;
    pthread_mutex_t lock;
    pthread_cond_t changed;
} Barrier;

static void wake_all(Barrier *b) {
    pthread_mutex_lock(&b->lock);
    pthread_cond_broadcast(&b->changed);
    pthread_mutex_unlock(&b->lock);
}

#define ENDED (1ull << 62)

/* Returns once all threads have arrived, and immediately after `barrier_end`. */
static void barrier_wait(Barrier *b, int patience, PrefetchCursor *o) {
    if (b->threads == 1) return;
    unsigned long long now = atomic_fetch_add(&b->arrived, 1) + 1;
    unsigned long long all = (now - 1) / b->threads * b->threads + b->threads;
    if (now > ENDED) return;
    if (now == all) {
        /* Either this thread sees the sleeper, or the sleeper, which counts itself first, sees that all have
           arrived. */
        if (atomic_load(&b->sleepers)) wake_all(b);
        return;
    }
    for (int i = 0; i < patience; i++) {
        if (atomic_load_explicit(&b->arrived, memory_order_acquire) >= all) return;
        prefetch_some(o);
        PAUSE();
    }
    /* Another process may be running on the core of a thread that is waited for. Sleeping is better than yielding: a
       thread that has slept is soon scheduled when it is woken, one that has yielded waits its turn (measured: 5
       times). */
    pthread_mutex_lock(&b->lock);
    atomic_fetch_add(&b->sleepers, 1);
    while (atomic_load(&b->arrived) < all) pthread_cond_wait(&b->changed, &b->lock);
    atomic_fetch_sub(&b->sleepers, 1);
    pthread_mutex_unlock(&b->lock);
}

/* Release all waiting threads, although not all have arrived. */
static void barrier_end(Barrier *b) {
    atomic_fetch_add(&b->arrived, ENDED);
    wake_all(b);
}

#endif
