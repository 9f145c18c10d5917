/* Threads that work on one call together and sleep between calls. */
#ifndef LLM_CPU_POOL_H
#define LLM_CPU_POOL_H

#include <pthread.h>
#include <stdatomic.h>

#if defined(__x86_64__)
#define PAUSE() _mm_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ volatile("yield")
#else
#define PAUSE() ((void)0)
#endif

/* How long a thread watches for the others before it sleeps: tens of microseconds while a call runs, which is longer
   than any of them lags behind on an idle machine; hardly at all between calls. */
enum { PATIENCE = 2000, IDLE_PATIENCE = 100 };

typedef struct {
    _Alignas(64) atomic_uint arrived;
    _Alignas(64) atomic_uint generation;
    _Alignas(64) atomic_uint sleepers;
    unsigned threads;
    pthread_mutex_t lock;
    pthread_cond_t changed;
} Barrier;

/* Returns once all threads have come here. */
static void barrier_wait(Barrier *b, int patience) {
    if (b->threads == 1) return;
    unsigned generation = atomic_load(&b->generation);
    if (atomic_fetch_add(&b->arrived, 1) + 1 == b->threads) {
        atomic_store(&b->arrived, 0);
        atomic_store(&b->generation, generation + 1);
        /* Either this sees the sleeper, or the sleeper, who counts itself first, sees the new generation. */
        if (atomic_load(&b->sleepers)) {
            pthread_mutex_lock(&b->lock);
            pthread_cond_broadcast(&b->changed);
            pthread_mutex_unlock(&b->lock);
        }
        return;
    }
    for (int i = 0; i < patience; i++) {
        if (atomic_load_explicit(&b->generation, memory_order_acquire) != generation) return;
        PAUSE();
    }
    /* Somebody else may be running on the core that the others wait for. To sleep is better than to yield: a thread
       that has slept is soon given a core when it is woken, one that has yielded waits its turn (measured: 5 times). */
    pthread_mutex_lock(&b->lock);
    atomic_fetch_add(&b->sleepers, 1);
    while (atomic_load(&b->generation) == generation) pthread_cond_wait(&b->changed, &b->lock);
    atomic_fetch_sub(&b->sleepers, 1);
    pthread_mutex_unlock(&b->lock);
}

#endif
