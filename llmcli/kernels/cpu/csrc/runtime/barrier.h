/* The barrier at which the threads of one call wait for each other, and sleep between calls. */
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

/* How long a thread watches for the others before it sleeps, in pauses of some 20 ns: a fraction of a millisecond while
   a call runs, and about as long as it takes to choose a token after it. */
enum { PATIENCE = 20000, IDLE_PATIENCE = 20000 };

/* A meeting begins when as many have arrived as there are threads for each meeting so far. One number that only grows:
   who comes last has to write to one line of the cache, and the others to read it. Cores may be far apart. */
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

/* Returns once all threads have come here, and at once from `barrier_end` on. */
static void barrier_wait(Barrier *b, int patience, Onward *o) {
    if (b->threads == 1) return;
    unsigned long long now = atomic_fetch_add(&b->arrived, 1) + 1, all = (now - 1) / b->threads * b->threads + b->threads;
    if (now > ENDED) return;
    if (now == all) {
        /* Either this sees the sleeper, or the sleeper, who counts itself first, sees that all have arrived. */
        if (atomic_load(&b->sleepers)) wake_all(b);
        return;
    }
    for (int i = 0; i < patience; i++) {
        if (atomic_load_explicit(&b->arrived, memory_order_acquire) >= all) return;
        ask_onward(o);
        PAUSE();
    }
    /* Somebody else may be running on the core that the others wait for. To sleep is better than to yield: a thread
       that has slept is soon given a core when it is woken, one that has yielded waits its turn (measured: 5 times). */
    pthread_mutex_lock(&b->lock);
    atomic_fetch_add(&b->sleepers, 1);
    while (atomic_load(&b->arrived) < all) pthread_cond_wait(&b->changed, &b->lock);
    atomic_fetch_sub(&b->sleepers, 1);
    pthread_mutex_unlock(&b->lock);
}

/* Whoever waits goes on, although not all have come. */
static void barrier_end(Barrier *b) {
    atomic_fetch_add(&b->arrived, ENDED);
    wake_all(b);
}

#endif
