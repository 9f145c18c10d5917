/* Which processor core each thread runs on. Called by worker_threads.h. */
#ifndef LLM_CPU_RUNTIME_CORES_H
#define LLM_CPU_RUNTIME_CORES_H

#include <stdint.h>

#ifdef __linux__
#include <sched.h>
#endif

/* Each thread is pinned to a different core, counted from the core of the caller. Without pinning, threads may be woken
   on the caller's core and stay there, which is five times slower (measured), because the other cores are not quite
   idle. */
typedef struct {
    const int32_t *cpus; /* one processor of each usable core, then the core of each of `processors` processors */
    int32_t cores, processors;
} Cores;

/* The processors a thread could run on before it was pinned. */
typedef struct {
#ifdef __linux__
    cpu_set_t before;
#endif
    int core; /* -1: it was not pinned */
} Affinity;

#ifdef __linux__
static int current_core(const Cores *cores) {
    int cpu = sched_getcpu();
    return cpu >= 0 && cpu < cores->processors ? cores->cpus[cores->cores + cpu] : -1;
}

/* Pin the calling thread to a core; `*at` is the core it is pinned to. */
static void pin_to_core(const Cores *cores, int core, int *at) {
    cpu_set_t set;
    if (core == *at) return;
    CPU_ZERO(&set);
    CPU_SET(cores->cpus[core], &set);
    if (sched_setaffinity(0, sizeof set, &set) == 0) *at = core;
}
#endif

#endif
